"""What an adapter's files say, and whether they fit the base: no engine and no torch is needed to know."""
