"""docs/api.md: every field of every kind, from the same schemas as the CRDs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finetune_operator.api.schema import VALIDATIONS
from finetune_operator.generate.crd import object_schema
from finetune_operator.generate.kinds import KINDS, Kind

_HEAD = """# API reference

Generated from `operator/finetune_operator/api/` by `python -m finetune_operator.generate`; do not edit.
Group `finetune.dev`, version `v1alpha1`, all kinds namespaced. References stay within the namespace.
Fractions are strings. A field that is left out is chosen by the system; status shows the choice.
"""


def reference(samples: Mapping[str, str]) -> str:
    """The page; `samples` holds the text of a minimal object by kind."""
    return _HEAD + "".join(_kind(kind, samples[kind.name]) for kind in KINDS)


def _kind(kind: Kind, sample: str) -> str:
    schema = object_schema(kind)
    spec, status = schema["properties"]["spec"], schema["properties"]["status"]
    columns = ", ".join(column.name + (" (wide)" if column.wide else "") for column in kind.columns)
    return "\n".join(
        [
            f"\n## {kind.name}",
            f"{schema['description']}",
            f"\nShort name `{kind.short}`, plural `{kind.model.plural}`. Columns: {columns}.",
            f"\n```yaml\n{sample.strip()}\n```",
            "\n### spec",
            *_table(spec),
            "\nRules that the API server enforces:",
            *(f"- {rule}" for rule in dict.fromkeys(_rules(schema, ""))),
            "\n### status",
            *_table(status),
            "",
        ]
    )


def _table(schema: Mapping[str, Any]) -> list[str]:
    rows = [f"| `{path}` | {kind} | {text} |" for path, kind, text in _fields(schema, "")]
    return ["| field | type | what |", "|---|---|---|", *rows]


def _fields(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        path = f"{prefix}{name}"
        needed = " **Required.**" if name in required else ""
        yield path, _type(part), _cell(part["description"] + needed + _bounds(part))
        yield from _fields(part, f"{path}.")
        inner = part.get("items") or part.get("additionalProperties") or {}
        suffix = "[]." if "items" in part else ".<key>."
        yield from _fields(inner, f"{path}{suffix}")


def _type(part: Mapping[str, Any]) -> str:
    if part["type"] == "array":
        return f"list of {_type(part['items'])}"
    if isinstance(part.get("additionalProperties"), Mapping):
        return f"map of {_type(part['additionalProperties'])}"
    return str(part["type"])


def _bounds(part: Mapping[str, Any]) -> str:
    found = []
    choices = part.get("enum") or part.get("items", {}).get("enum")
    if choices:
        found.append("One of " + ", ".join(f"`{value}`" for value in choices))
    if "minimum" in part and "maximum" in part:
        found.append(f"{part['minimum']} to {part['maximum']}")
    for key, unit in (("maxLength", "characters"), ("maxItems", "entries"), ("maxProperties", "entries")):
        if key in part and not choices:
            found.append(f"At most {part[key]} {unit}")
    return "".join(f" {text}." for text in found)


def _rules(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for rule in schema.get(VALIDATIONS, []):
        where = f"{path}{rule.get('fieldPath', '')}".removeprefix(".")
        yield f"`{where or 'object'}`: {rule['message']}"
    for name, part in schema.get("properties", {}).items():
        if name != "status":
            yield from _rules(part, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
