"""What is asked beside the hold-out itself: the prompts of rivals, and suites outside of the task."""
