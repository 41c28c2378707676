"""`make demo`: from nothing to a tuned adapter that answers behind an OpenAI-compatible address."""
