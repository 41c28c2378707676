"""The life of the process: start and stop, leadership, probes, logs."""
