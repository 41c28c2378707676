"""The training core: functions on plain arguments, used by the train stage and by the benchmarks."""
