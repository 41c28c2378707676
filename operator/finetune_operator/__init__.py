"""Kubernetes operator that tunes, gates and serves LoRA adapters declaratively."""
