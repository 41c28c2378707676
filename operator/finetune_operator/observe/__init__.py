"""What Jobs and pods show: how an attempt ended, and why pods do not run (pure)."""
