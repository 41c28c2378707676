"""The base of every document: camelCase in JSON, unknown fields refused, immutable once read."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class Document(BaseModel):
    """A part of a JSON contract. Unknown fields are refused: an option either works or is an error."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid", frozen=True)

    def to_json(self) -> str:
        """The document as indented JSON with its public (camelCase) names, ending in a newline."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"
