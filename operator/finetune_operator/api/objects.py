"""What the three kinds share: group, metadata, the shape of an object and its status."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from finetune_operator.api.conditions import Condition, Conditions, find
from finetune_operator.api.schema import ApiModel

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class Metadata(ApiModel):
    """The part of an object's metadata that decisions depend on; times are RFC 3339 strings."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class Status(ApiModel):
    """What every status carries; the summary condition is Succeeded for a run and Ready for the others."""

    observed_generation: int | None = Field(
        None, ge=0, description="The generation of the spec that this status describes."
    )
    conditions: Conditions = Field(
        (),
        description="What is known about the object, one entry per type.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )

    def condition(self, kind: str) -> Condition | None:
        """The condition of a type, None while it was never set."""
        return find(self.conditions, kind)

    def to_status(self) -> dict[str, Any]:
        """The status as it is written to the API server."""
        return self.to_dict()


class ApiObject(ApiModel):
    """An object of one of our kinds as the API server returns it."""

    kind_name: ClassVar[str]
    plural: ClassVar[str]

    metadata: Metadata

    def owner_reference(self) -> dict[str, Any]:
        """The controller reference that makes a child go when this object goes."""
        return {
            "apiVersion": API_VERSION,
            "kind": self.kind_name,
            "name": self.metadata.name,
            "uid": self.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
