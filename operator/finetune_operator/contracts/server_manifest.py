"""The server manifest (operator -> agent)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from finetune_operator.contracts.document import Digest, Written


class ManifestBase(Written):
    """The base model that a server's adapters must fit."""

    name: str
    fingerprint: str | None = None


class ManifestVersion(Written):
    """One version that the engines hold."""

    name: str
    source: str
    digest: Digest
    allow_unpromoted: bool = False


class ManifestTarget(Written):
    """A share of an alias's traffic, in percent."""

    version: str
    weight: int = Field(ge=0, le=100)


class ManifestShadow(Written):
    """A share of an alias's requests, in percent, that a version answers too, for nobody."""

    version: str
    percent: int = Field(ge=1, le=100)


class ManifestRoute(Written):
    """Which versions answer an alias: the stable one first, then, during a rollout by steps, the new one."""

    alias: str
    targets: tuple[ManifestTarget, ...] = Field(min_length=1)
    sticky_header: str | None = None
    shadow: ManifestShadow | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if sum(target.weight for target in self.targets) != 100:
            raise ValueError("the weights of a route add up to 100")
        return self

    @property
    def stable(self) -> str:
        """The version that has every request, or had them before the rollout."""
        return self.targets[0].version

    @property
    def versions(self) -> tuple[str, ...]:
        """Every version that answers."""
        return tuple(target.version for target in self.targets)


class ManifestCandidate(Written):
    """A version that no alias has, and the only entry of the keys' Secret that may call it (null: open)."""

    version: str
    key: str | None = None


class ManifestLimits(Written):
    """What one replica takes; what is left out is the gateway's default."""

    max_body_bytes: int | None = None
    max_in_flight: int | None = None
    max_in_flight_per_alias: int | None = None
    max_in_flight_per_key: int | None = None
    tokens_per_minute_per_key: int | None = None
    max_n: int | None = None
    max_prompts: int | None = None

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, int]:
        return {name: value for name, value in handler(self).items() if value is not None}


class ManifestKey(Written):
    """An entry of the keys' Secret that may call these model names only."""

    name: str
    aliases: tuple[str, ...]


class ServerManifest(Written):
    """The server manifest that the agent in each pod converges to."""

    schema_version: Literal[1] = 1
    generation: int = Field(ge=0)
    base: ManifestBase
    versions: tuple[ManifestVersion, ...] = ()
    routes: tuple[ManifestRoute, ...] = ()
    candidates: tuple[ManifestCandidate, ...] = ()
    drain_seconds: int = Field(600, ge=1)
    limits: ManifestLimits = ManifestLimits()
    keys: tuple[ManifestKey, ...] = ()
