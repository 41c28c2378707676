"""ModelServer: the children of a shared vLLM server and the manifest that its pods converge to (pure)."""
