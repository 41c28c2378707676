"""One module per stage of a FineTuneJob, and the plan that chains them: pure decisions, no I/O, no clock."""
