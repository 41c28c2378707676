"""The base of every typed part of a custom resource, and how a model carries CEL rules to its CRD schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Cel:
    """One CEL rule. In `Annotated[...]` it checks that value; in `ApiModel.rules` it checks the object.

    `message` says what must hold and what to do; `path` is the field that the error names (`.lora`).
    """

    rule: str
    message: str
    path: str | None = None

    def as_schema(self) -> dict[str, str]:
        """The rule as an entry of x-kubernetes-validations."""
        entry = {"rule": self.rule, "message": self.message}
        return entry if self.path is None else {**entry, "fieldPath": self.path}

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Append the rule to the schema of the annotated value."""
        schema = handler(core_schema)
        schema[VALIDATIONS] = [*schema.get(VALIDATIONS, []), self.as_schema()]
        return schema


class ApiModel(BaseModel):
    """A part of an object: camelCase in JSON, snake_case here, immutable.

    Unknown fields are ignored, so that an operator can read what a newer version stored.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    rules: ClassVar[tuple[Cel, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add the rules of the class to its schema."""
        schema = handler(core_schema)
        if cls.rules:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.as_schema() for rule in cls.rules]
        return schema

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under their public names, without what is absent."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
