"""Every bound and every rule that the CRDs state is in force: derived from the definitions themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.apiserver.client import ROOT, Api, changed, sample
from tests.apiserver.test_refusals import CHANGES, WRONG

pytestmark = pytest.mark.apiserver

DEFINITIONS = {
    file.stem: yaml.safe_load(file.read_text())["spec"] for file in sorted((ROOT / "crds").glob("*.yaml"))
}
FULL = {plural: f"{crd['names']['singular']}-full" for plural, crd in DEFINITIONS.items()}


def _schema(plural: str) -> dict[str, Any]:
    schema: dict[str, Any] = DEFINITIONS[plural]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _beyond(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """For each bound of a field: its name, a value just beyond it, and what the message must hold."""
    if "minimum" in schema:
        yield "minimum", schema["minimum"] - 1, str(schema["minimum"])
    if "maximum" in schema:
        yield "maximum", schema["maximum"] + 1, str(schema["maximum"])
    if "maxLength" in schema:
        yield "maxLength", "a" * (schema["maxLength"] + 1), str(schema["maxLength"])
    if "minLength" in schema:
        yield "minLength", "a" * (schema["minLength"] - 1), str(schema["minLength"])
    if "enum" in schema:
        yield "enum", 7 if schema["type"] == "integer" else "Nonsense", str(schema["enum"][0])
    if schema["type"] == "array":
        yield from _beyond_list(schema)
    if "maxProperties" in schema:
        limit = schema["maxProperties"]
        yield "maxProperties", {f"k{n}": "v" for n in range(limit + 1)}, str(limit)


def _beyond_list(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    entry: Any = {} if schema["items"]["type"] == "object" else "a"
    yield "maxItems", [entry] * (schema["maxItems"] + 1), str(schema["maxItems"])
    if "minItems" in schema:
        yield "minItems", [], str(schema["minItems"])


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _fields(part, f"{path}.{name}")
    if schema.get("items"):
        yield from _fields(schema["items"], f"{path}.0")


CASES = [
    (plural, path, bound, value, says)
    for plural in DEFINITIONS
    for path, schema in _fields(_schema(plural)["properties"]["spec"], "spec")
    for bound, value, says in _beyond(schema)
]


@pytest.mark.parametrize(
    ("plural", "path", "value", "says"),
    [(plural, path, value, says) for plural, path, _, value, says in CASES],
    ids=[f"{plural}: {bound} of {path}" for plural, path, bound, _, _ in CASES],
)
def test_a_value_beyond_its_bound_is_refused(api: Api, plural: str, path: str, value: Any, says: str) -> None:
    response = api.check(_with(plural, path, value))
    assert response.status_code == 422, response.text
    message = response.json()["message"]
    assert path.replace(".0", "[0]") in message
    assert says in message


def _with(plural: str, path: str, value: Any) -> dict[str, Any]:
    """The full sample with one value; for an entry of a list of words there is a list with one entry."""
    body = sample(FULL[plural])
    if path.endswith(".0") and isinstance(value, str):
        body = changed(body, path.removesuffix(".0"), ["a"])
    return changed(body, path, value)


def test_every_rule_refuses_some_object_of_the_table(api: Api, stored: dict[str, Any]) -> None:
    said = [api.check(changed(sample(name), path, value)).text for _, name, path, value, _ in WRONG]
    said += [
        api.check_update(stored[name], changed(sample(name), path, value)).text
        for _, name, path, value, _ in CHANGES
    ]
    rules = {
        (plural, path, rule["message"])
        for plural in DEFINITIONS
        for path, schema in [("", _schema(plural)), *_fields(_schema(plural)["properties"]["spec"], "spec")]
        for rule in schema.get("x-kubernetes-validations", [])
    }
    messages = {message for _, _, message in rules}
    heard = "\n".join(said).replace('\\"', '"')
    assert sorted(message for message in messages if message not in heard) == []
