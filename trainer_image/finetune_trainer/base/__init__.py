"""The one place that reads a base model: its config.json, the headers of its weights, and what follows."""
