"""What the agent tells the gateway: the routes in force, what may be asked, and what can answer now."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from finetune_serving.documents import RequestLimits
from finetune_serving.gateway.routing import RouteTable


@dataclass
class Book:
    """Shared by agent (writes) and gateway (reads) in one event loop; each field is replaced whole.

    `template_kwargs` are, by version (or base), what its prompts pass to the chat template.
    `unavailable` says, by alias, why it cannot be had on this pod, `refused`, by name, why a candidate never
    can. `grants` are, by name of an API key, the
    models it may call; a key that is not in it may call all. `ready` is what /state says. `trouble` wakes
    the agent when a request met an engine that is gone or has lost a version.
    """

    table: RouteTable = field(default_factory=RouteTable)
    loaded: frozenset[str] = frozenset()
    created: Mapping[str, int] = field(default_factory=dict)
    template_kwargs: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    limits: RequestLimits = field(default_factory=RequestLimits)
    grants: Mapping[str, frozenset[str]] = field(default_factory=dict)
    engine_up: bool = False
    ready: bool = False
    closing: bool = False
    trouble: asyncio.Event = field(default_factory=asyncio.Event)
    _change: asyncio.Event = field(default_factory=asyncio.Event)

    def can_answer(self, version: str) -> bool:
        """Whether the running engine process holds this version (or the base)."""
        return self.engine_up and (version == self.table.base or version in self.loaded)

    def may_call(self, key: str, model: str) -> bool:
        """Whether the API key of this name may call a model; a candidate has one key of its own."""
        if model in self.table.candidates:
            return (self.table.candidates[model] or "") == key
        allowed = self.grants.get(key)
        return allowed is None or model in allowed

    def announce(self) -> None:
        """Wake whoever waits for a change; the agent calls it after it wrote."""
        self._change.set()
        self._change = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next announcement."""
        await self._change.wait()
