"""The JSON documents that pass between administrator, operator, trainer and server (docs/contracts.md)."""
