"""What the trainer chooses where the user left it open, and how long it will be."""
