"""How the operator scales, on a real API server, beside a plain kopf handler."""
