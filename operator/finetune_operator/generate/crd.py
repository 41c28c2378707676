"""The CustomResourceDefinition of a kind."""

from __future__ import annotations

import inspect
from typing import Any

from finetune_operator.api.objects import GROUP, VERSION
from finetune_operator.api.schema import VALIDATIONS, Cel
from finetune_operator.generate.kinds import Kind
from finetune_operator.generate.structural import Schema, structural_schema

NAME_RULE = Cel(
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name must be at most 40 lower-case letters, digits and hyphens, starting with a letter: names "
    "of pods and Services are built from it; choose a shorter or simpler name",
)
_API_VERSION = "The version of the API, finetune.dev/v1alpha1."


def definition(kind: Kind) -> dict[str, Any]:
    """The whole manifest; one version, served and stored."""
    plural = kind.model.plural
    names = {
        "plural": plural,
        "singular": kind.name.lower(),
        "kind": kind.name,
        "listKind": f"{kind.name}List",
        "shortNames": [kind.short],
        "categories": ["finetune"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [_version(kind)]},
    }


def object_schema(kind: Kind) -> Schema:
    """The schema of the whole object, with the rule on its name."""
    parts = {name: structural_schema(_part(kind, name)) for name in ("spec", "status")}
    return {
        "type": "object",
        "description": inspect.getdoc(kind.model),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": _API_VERSION},
            "kind": {"type": "string", "description": f"The kind, {kind.name}."},
            "metadata": {"type": "object"},
            **parts,
        },
        VALIDATIONS: [NAME_RULE.as_schema()],
    }


def _version(kind: Kind) -> dict[str, Any]:
    subresources: dict[str, Any] = {"status": {}}
    if kind.scale:
        subresources["scale"] = dict(kind.scale)
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [column.as_schema() for column in kind.columns],
        "schema": {"openAPIV3Schema": object_schema(kind)},
    }


def _part(kind: Kind, name: str) -> Any:
    return kind.model.model_fields[name].annotation
