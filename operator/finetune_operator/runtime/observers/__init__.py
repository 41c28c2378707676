"""What each kind sees when it is reconciled: caches, and live reads where a decision is final."""
