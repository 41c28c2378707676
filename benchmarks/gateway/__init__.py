"""The gateway's own speed: an engine that answers at once behind it, and raw clients in front."""
