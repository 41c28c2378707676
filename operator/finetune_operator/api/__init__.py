"""Typed specs, statuses, names and conditions: the lowest layer, no I/O."""
