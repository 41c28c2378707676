"""Graders that are containers of the user's own: what they are asked, and what they say."""
