"""A change of version by steps: the state machine, what it counts and how it judges (pure)."""
