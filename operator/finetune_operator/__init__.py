"""Kubernetes operator that tunes, gates and serves LoRA adapters declaratively."""

__version__ = "0.1.0"
