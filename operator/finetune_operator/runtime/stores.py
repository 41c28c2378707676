"""The stores that observers read."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_operator.runtime.store import Store


@dataclass(frozen=True)
class Stores:
    """Children of our objects as the reflectors see them, which may be a moment behind."""

    jobs: Store
    pods: Store
    deployments: Store
