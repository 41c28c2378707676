"""The serving image: the engine (vLLM), the gateway with its agent, and small helpers beside them."""
