"""From a typed model to a structural OpenAPI schema that kube-apiserver accepts and kubectl explains.

Pydantic writes `$ref` and `anyOf: [X, null]`; a CRD may have neither, and Kubernetes drops nulls by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
_ORDER = ("type", "format", "description", "default", "enum")
_INT32_MAX = 2**31 - 1
STORED_DEFAULT = "x-stored-default"


def structural_schema(model: type[BaseModel]) -> Schema:
    """The schema of a model with everything inlined."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _clean(schema, schema.get("$defs", {}))


def _clean(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    flat = _flatten(node, definitions)
    if "properties" in flat:
        flat["properties"] = {key: _clean(value, definitions) for key, value in flat["properties"].items()}
    for inner in ("items", "additionalProperties"):
        if isinstance(flat.get(inner), Mapping):
            flat[inner] = _clean(flat[inner], definitions)
    for remove in ("title", "$defs"):
        flat.pop(remove, None)
    _settle_default(flat)
    _settle_type(flat)
    return {key: flat[key] for key in sorted(flat, key=_rank)}


def _flatten(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Follow references and drop the null alternative; what is said at the place of use wins."""
    flat = dict(node)
    if "$ref" in flat:
        target = definitions[flat.pop("$ref").rsplit("/", 1)[-1]]
        return _flatten({**target, **flat}, definitions)
    if "anyOf" in flat:
        (choice,) = [option for option in flat.pop("anyOf") if option != {"type": "null"}]
        return _flatten({**choice, **flat}, definitions)
    return flat


def _settle_default(flat: Schema) -> None:
    """Defaults are explained, not stored: stored ones would freeze today's choice in every object."""
    stored = flat.pop(STORED_DEFAULT, False)
    default = flat.pop("default", None)
    if stored:
        flat["default"] = default
    if isinstance(default, bool | int | str):
        text = str(default).lower() if isinstance(default, bool) else default
        flat["description"] = f"{flat['description']} Default: {text}." if text != "" else flat["description"]


def _settle_type(flat: Schema) -> None:
    if "const" in flat:
        flat["enum"] = [flat.pop("const")]
    if flat.get("type") == "integer":
        flat["format"] = "int32" if flat.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if flat.get("type") == "array":
        flat.setdefault("x-kubernetes-list-type", "atomic")


def _rank(key: str) -> tuple[int, str]:
    return (_ORDER.index(key), "") if key in _ORDER else (len(_ORDER), key)
