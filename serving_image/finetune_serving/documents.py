"""The JSON documents that pass through this image (docs/contracts.md).

What we read (server manifest, adapter manifest) tolerates unknown fields, so a newer writer does no harm;
what we write (`/state`) is exact. All models are immutable once read.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic.alias_generators import to_camel

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Becomes a folder and a vLLM adapter name: nothing that could leave a folder or look like an option.
VersionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]

Phase = Literal["Fetching", "Loading", "Verifying", "Ready", "Draining", "Failed"]
Reason = Literal[
    "",
    "ArtifactMissing",
    "DigestMismatch",
    "InvalidArtifact",
    "BaseMismatch",
    "Unpromoted",
    "RankTooLarge",
    "UnsupportedAdapter",
    "SilentNoOp",
    "LoadFailed",
]


class _Read(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="ignore", frozen=True)


class _Written(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)


class ServedBase(_Read):
    """The base model: its public name and, when the user pinned it, its fingerprint."""

    name: str
    fingerprint: Digest | None = None


class VersionEntry(_Read):
    """One version the engine should hold."""

    name: VersionName
    source: str
    digest: Digest
    allow_unpromoted: bool = False


class Target(_Read):
    """A version behind an alias and its share of the requests."""

    version: str
    weight: int = Field(default=100, ge=0, le=100)


class Shadow(_Read):
    """A version that gets copies of a share of an alias's requests; its answers are dropped."""

    version: str
    percent: int = Field(ge=0, le=100)


class Route(_Read):
    """One alias and the versions that answer it.

    `sticky_header` names the request header whose value keeps a caller with one version.
    """

    alias: str
    targets: tuple[Target, ...] = Field(min_length=1)
    sticky_header: str | None = None
    shadow: Shadow | None = None


class RequestLimits(_Read):
    """What one pod takes at a time; None is no limit. Sizes in bytes."""

    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    max_in_flight: int | None = Field(default=1000, ge=1)
    max_in_flight_per_alias: int | None = Field(default=None, ge=1)
    max_in_flight_per_key: int | None = Field(default=None, ge=1)
    tokens_per_minute_per_key: int | None = Field(default=None, ge=1)
    max_n: int = Field(default=128, ge=1)
    max_prompts: int = Field(default=128, ge=1)


class KeyGrant(_Read):
    """The public names that the key of one Secret entry may call."""

    name: str
    aliases: frozenset[str]


class Candidate(_Read):
    """A version that no alias has: a run that scores it asks for it by its own name.

    `key` is the entry of the Secret whose key may, None on a server without keys.
    """

    version: str
    key: str | None = None


class ServerManifest(_Read):
    """What this server should hold and answer (operator -> agent).

    `drain_seconds` is how long a version that no route names any more may keep requests in flight.
    """

    schema_version: Literal[1]
    generation: int = Field(ge=0)
    base: ServedBase
    versions: tuple[VersionEntry, ...] = ()
    routes: tuple[Route, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    drain_seconds: int = Field(default=600, ge=0)
    limits: RequestLimits = RequestLimits()
    keys: tuple[KeyGrant, ...] = ()

    def routed(self) -> frozenset[str]:
        """Names of all versions that some route of this generation answers with."""
        return frozenset(target.version for route in self.routes for target in route.targets)

    def on_trial(self) -> frozenset[str]:
        """Names of the candidates: they may get requests, and no pod waits for them."""
        return frozenset(candidate.version for candidate in self.candidates)


class AdapterBase(_Read):
    """The base an adapter was trained on."""

    fingerprint: Digest


class AdapterShape(_Read):
    """The trainer's record of the adapter's rank."""

    rank: int = Field(gt=0, le=2**31)


class AdapterFile(_Read):
    """One published file."""

    path: str
    sha256: Hex
    bytes: int = Field(ge=0)


class AdapterManifest(_Read):
    """What we need of a published manifest.json (trainer -> serving)."""

    schema_version: Literal[1]
    kind: str
    base_model: AdapterBase
    adapter: AdapterShape | None = None
    files: tuple[AdapterFile, ...]
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    promoted: bool


class ModelManifest(_Read):
    """What we need of the manifest.json of a tuned model that is served as a base."""

    kind: Literal["Model"]
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)


class BaseState(_Written):
    """The base in force: fingerprint is null while it is being computed or cannot be."""

    name: str
    fingerprint: Digest | None


class Counts(_Written):
    """What was asked of a version and what came of it, since the process `processId` started.

    `requests` are the finished ones; `failures` of them ended in a 5xx, a broken stream or an error event,
    `empty` in a 200 without text and tool call, `cut` at the token limit. `seconds` and
    `first_byte_seconds` are sums over them.
    """

    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    empty: int = 0
    cut: int = 0
    seconds: float = 0.0
    first_byte_seconds: float = 0.0


class VersionState(Counts):
    """One version as this pod sees it; times in seconds.

    `tried_again`: it is Failed for now, and the next attempt is due without anybody's doing.
    """

    name: str
    digest: str
    phase: Phase
    reason: Reason = ""
    message: str = ""
    tried_again: bool = False
    load_seconds: float | None = None


class TargetState(_Written):
    """A version that an alias is answered with, and its weight."""

    version: str
    weight: int


class AliasState(_Written):
    """The route of an alias in force in this pod, and why it is not the one asked for, or has no answer."""

    alias: str
    targets: tuple[TargetState, ...]
    answers: bool
    reason: str = ""
    message: str = ""


class State(_Written):
    """What the agent answers on /state (agent -> operator).

    Counts start at 0 with the process `process_id`; `engine_id` is new in every engine process, which holds
    `slots` adapters at most. `candidates` are those that may be asked for here.
    """

    schema_version: Literal[1] = 1
    generation: int
    applied_generation: int
    process_id: str = ""
    engine_id: str
    ready: bool
    slots: int = 0
    base: BaseState
    versions: tuple[VersionState, ...]
    aliases: tuple[AliasState, ...] = ()
    candidates: tuple[str, ...] = ()
    message: str = ""


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of every document that this image writes, by name."""
    return {"state": State.model_json_schema(by_alias=True, mode="serialization")}
