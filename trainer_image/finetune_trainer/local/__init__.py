"""What the trainer does on a laptop, without a cluster and without a job file."""
