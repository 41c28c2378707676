"""The agent: makes the engine hold exactly the adapters of the server manifest and reports on it."""
