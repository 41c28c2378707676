"""The generated CRDs: up to date, structural, bounded and explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.generate.__main__ import drift, generated
from finetune_operator.generate.crd import definition, object_schema
from finetune_operator.generate.kinds import KINDS, Kind

ROOT = Path(__file__).resolve().parents[3]
IDS = [kind.name for kind in KINDS]


def _fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name}", part
        yield from _fields(part, f"{path}.{name}")
        yield from _fields(part.get("items", {}), f"{path}.{name}[]")
        if isinstance(part.get("additionalProperties"), dict):
            yield from _fields(part["additionalProperties"], f"{path}.{name}{{}}")


def _own_fields(kind: Kind) -> list[tuple[str, dict[str, Any]]]:
    parts = object_schema(kind)["properties"]
    return [field for name in ("spec", "status") for field in _fields(parts[name], name)]


def test_the_files_are_what_the_models_say() -> None:
    assert drift(ROOT) == []


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    for path, text in generated(ROOT).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / "crds/samples").mkdir()
    for file in (ROOT / "crds/samples").glob("*-minimal.yaml"):
        (tmp_path / "crds/samples" / file.name).write_text(file.read_text())
    assert drift(tmp_path) == []
    (tmp_path / "docs/api.md").write_text("edited by hand")
    assert drift(tmp_path) == [Path("docs/api.md")]


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_every_field_is_explained_in_a_sentence(kind: Kind) -> None:
    silent = [path for path, part in _own_fields(kind) if not part.get("description", "").endswith(".")]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_everything_that_can_grow_is_bounded(kind: Kind) -> None:
    assert [path for path, part in _own_fields(kind) if not _bounded(part)] == []


def _bounded(part: dict[str, Any]) -> bool:
    if part["type"] == "string":
        return bool({"maxLength", "enum", "format"} & part.keys())
    if part["type"] == "array":
        return "maxItems" in part and _bounded(part["items"])
    return "additionalProperties" not in part or "maxProperties" in part


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_the_schema_is_structural(kind: Kind) -> None:
    text = json.dumps(definition(kind))
    assert [word for word in ("$ref", "anyOf", "$defs", '"title"', '"const"', '"null"') if word in text] == []


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_only_replicas_has_a_stored_default(kind: Kind) -> None:
    stored = [path for path, part in _own_fields(kind) if "default" in part]
    assert stored == (["spec.replicas"] if kind.name == "ModelServer" else [])


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_the_samples_show_every_field(kind: Kind) -> None:
    files = (ROOT / "crds/samples").glob(f"{kind.name.lower()}-*.yaml")
    shown = {path for file in files for path in _paths(yaml.safe_load(file.read_text())["spec"], "spec")}
    rare = {"spec.tolerations[].value", "spec.tolerations[].tolerationSeconds"}
    wanted = {path for path, _ in _own_fields(kind) if path.startswith("spec.")} - rare
    # A suite's grader is what the graders of the hold-out are.
    own, suites = "spec.evaluation.graders[]", "spec.evaluation.regression.suites[].grader"
    shown |= {path.replace(own, suites) for path in shown} | {path.replace(suites, own) for path in shown}
    assert sorted(wanted - shown) == []


def _paths(value: Any, path: str) -> Iterator[str]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, f"{path}[]")
