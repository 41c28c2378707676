"""Sending an evaluation to where a team keeps such things. What cannot be sent is told and ends nothing."""
