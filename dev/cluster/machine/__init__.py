"""What the embedded cluster needs of this machine, and what it leaves on it."""
