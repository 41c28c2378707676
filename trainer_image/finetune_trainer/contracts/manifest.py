"""manifest.json, published beside the files of an adapter or model (trainer -> serving, trainer)."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from finetune_trainer.contracts.document import Digest, Document
from finetune_trainer.contracts.job import Method

Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ManifestBase(Document):
    """The base model that was tuned."""

    source: str
    revision: str | None = None
    fingerprint: Digest


class ManifestLora(Document):
    """The adapter's shape."""

    rank: int
    alpha: int


class ManifestFile(Document):
    """One published file; `path` is relative to the folder of the manifest."""

    path: str
    sha256: Hex
    bytes: int = Field(ge=0)


class DataDigests(Document):
    """Digests of the canonical training rows and of the hold-out (null without evaluation)."""

    train: Digest
    holdout: Digest | None = None


class ManifestJob(Document):
    """The FineTuneJob that made it."""

    namespace: str
    name: str
    uid: str


class AdapterManifest(Document):
    """What was published, from what, and how good it is. Its own sha256 is the adapter's digest.

    `files` are what a server needs and copies. `documents` are for people and programs that want to know how
    good it is (model card, report, traces); nobody refuses a publication because one of them was edited.
    `chat_template_kwargs` are what the chat template got in training: every later prompt needs them too.
    """

    schema_version: Literal[1] = 1
    kind: Literal["Adapter", "Model"]
    spec_digest: Digest
    method: Method
    base_model: ManifestBase
    adapter: ManifestLora | None = None
    files: tuple[ManifestFile, ...]
    documents: tuple[ManifestFile, ...] = ()
    data: DataDigests
    chat_template_kwargs: dict[str, bool | str] = Field(default_factory=dict)
    training: dict[str, Any]
    scores: dict[str, Any] | None = None
    verdict: str | None = None
    promoted: bool
    accepted: tuple[str, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    job: ManifestJob
