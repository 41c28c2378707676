"""What all documents that pass between operator, trainer and server have in common (docs/contracts.md).

The operator writes job.json and the server manifest: their models are strict and export their schemas. What
it reads (results, progress, /state) may come from another version or be cut, and is read key by key.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

Digest: TypeAlias = Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]


class Written(BaseModel):
    """A part of a document that the operator writes."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    def to_json_value(self) -> dict[str, Any]:
        """Plain JSON values under their public names, nulls included."""
        return self.model_dump(mode="json", by_alias=True)

    def to_json(self) -> str:
        """The document as text; the same content is always the same text."""
        return json.dumps(self.to_json_value(), indent=1, sort_keys=True) + "\n"
