"""What the agent tells the gateway: the routes in force and the versions that can answer now."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from finetune_serving.gateway.routing import RouteTable


@dataclass
class Book:
    """Shared by agent (writes) and gateway (reads) in one event loop; each field is replaced whole.

    `template_kwargs` are, by version (or base), what its prompts pass to the chat template.
    `unavailable` names the aliases without an answer here, each with the sentence that its clients get.
    `trouble` wakes the agent when a request met an engine that is gone or has lost a version.
    """

    table: RouteTable = field(default_factory=RouteTable)
    loaded: frozenset[str] = frozenset()
    created: Mapping[str, int] = field(default_factory=dict)
    template_kwargs: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    engine_up: bool = False
    closing: bool = False
    trouble: asyncio.Event = field(default_factory=asyncio.Event)

    def can_answer(self, version: str) -> bool:
        """Whether the running engine process holds this version (or the base)."""
        return self.engine_up and (version == self.table.base or version in self.loaded)
