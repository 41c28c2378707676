"""The public OpenAI-compatible API: who may ask, which version answers, and what is counted."""
