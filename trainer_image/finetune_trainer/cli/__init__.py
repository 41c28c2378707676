"""Commands for people, without a cluster: what they print and how they exit."""
