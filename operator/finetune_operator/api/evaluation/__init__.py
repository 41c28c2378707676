"""spec.evaluation of a FineTuneJob, and the scores in its status."""
