"""Answers to the hold-out from the engine that also serves, their grades, and comparisons of them."""
