"""The chart's values: what reaches the operator as settings.json, and what the schema refuses first."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from dev.chart import CHART, values
from finetune_operator.contracts.settings import Settings, SettingsError, parse_settings
from tests.chart.releases import IMAGES, Object

IMAGES_OF_PODS = {"trainer": IMAGES["trainer"], "serving": IMAGES["serving"]}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
Render = Callable[..., list[Object]]
Path = tuple[str | int, ...]

PAGE = CHART.parents[1] / "docs" / "contracts.md"
EXAMPLE = (
    PAGE.read_text().partition("## Settings of the operator")[2].partition("```json")[2].partition("```")[0]
)
BY_THE_CHART = {"images", "operatorNamespace"}
FULL: Object = {key: value for key, value in json.loads(EXAMPLE).items() if key not in BY_THE_CHART}
"""Every setting of the administrator, as the page on contracts has them."""


def rendered_settings(render: Render, **given: Any) -> Object:
    maps = [item for item in render(**given) if item["kind"] == "ConfigMap"]
    document: Object = json.loads(maps[0]["data"]["settings.json"])
    return document


def test_every_setting_reaches_the_operator_as_it_was_given(render: Render) -> None:
    document = rendered_settings(render, **FULL)
    assert {key: value for key, value in document.items() if key not in BY_THE_CHART} == FULL
    assert document["images"] == IMAGES_OF_PODS
    assert document["operatorNamespace"] == "finetune-system"


def test_the_defaults_of_the_chart_are_those_of_the_operator(render: Render) -> None:
    shipped = parse_settings(json.dumps(rendered_settings(render)))
    assert shipped == Settings(images=shipped.images, operator_namespace="finetune-system")


def test_values_of_an_earlier_release_leave_new_settings_at_their_defaults(render: Render) -> None:
    """As `helm upgrade --reuse-values` does; Helm takes a null as the order to drop a default."""
    document = rendered_settings(render, engineProfiles=None, servingNetwork=None)
    assert parse_settings(json.dumps(document)) == parse_settings(json.dumps(rendered_settings(render)))


def test_the_values_of_the_embedded_cluster_are_accepted(render: Render) -> None:
    document = rendered_settings(render, **values({**IMAGES, "pause": "example/pause:1"}))
    assert parse_settings(json.dumps(document)).env["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_the_pages_example_holds_every_setting() -> None:
    settings = parse_settings(json.dumps({"images": IMAGES_OF_PODS, **FULL}))
    assert settings.model_dump(mode="json", by_alias=True, exclude={"images", "operator_namespace"}) == FULL


def at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of everything that can be replaced, containers included."""
    if path:
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, entry in entries:
        yield from leaves(entry, (*path, key))


ODD: dict[str, Any] = {
    "nothing": None,
    "an empty text": "",
    "a text": "Some text",
    "a negative number as text": "-1",
    "zero": 0,
    "a negative number": -1,
    "a fraction": 0.5,
    "true": True,
    "an empty list": [],
    "a list with a number": [1],
    "an empty object": {},
    "an object with a number": {"Key": 1},
    "an object with an unknown key": {"unknown": "x"},
}


def replaced(path: Path, value: Any) -> Object:
    document = copy.deepcopy(FULL)
    at(document, path[:-1])[path[-1]] = value
    return document


def removed(path: Path) -> Object:
    document = copy.deepcopy(FULL)
    del at(document, path[:-1])[path[-1]]
    return document


def refused_by_schema(given: Object) -> bool:
    return not jsonschema.Draft7Validator(SCHEMA).is_valid({"images": IMAGES, **given})


def refused_by_operator(given: Object) -> bool:
    try:
        parse_settings(json.dumps({"images": IMAGES_OF_PODS, **given}))
    except SettingsError:
        return True
    return False


@pytest.mark.parametrize("value", ODD.values(), ids=ODD.keys())
def test_what_the_operator_refuses_the_schema_refuses_first(value: Any) -> None:
    given = {path: replaced(path, value) for path in leaves(FULL)}
    missed = [path for path, g in given.items() if refused_by_operator(g) and not refused_by_schema(g)]
    assert not missed


def test_what_the_operator_misses_the_schema_misses_first() -> None:
    given = {path: removed(path) for path in leaves(FULL)}
    missed = [path for path, g in given.items() if refused_by_operator(g) and not refused_by_schema(g)]
    assert not missed


def test_every_object_of_the_schema_is_closed() -> None:
    def objects(schema: Any, where: str = "values") -> Iterator[tuple[str, Object]]:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("type") == "object":
                yield where, schema
            for key, part in schema.items():
                yield from objects(part, f"{where}.{key}")

    found = dict(objects(SCHEMA))
    assert len(found) > 5
    assert [where for where, schema in found.items() if schema.get("additionalProperties") is not False] == []


def test_every_default_is_described_by_the_schema() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(defaults) == set(SCHEMA["properties"]) - {"global"}


def gpu(**changes: Any) -> Object:
    return {"gpuTypes": {"h200": changes}}


WRONG: dict[str, tuple[Object, str]] = {
    "an image that nobody named": ({"images": {**IMAGES, "trainer": ""}}, "images.trainer is empty"),
    "an unknown image": ({"images": {**IMAGES, "trainr": "x"}}, "trainr"),
    "a misspelt value": ({"engineArg": []}, "engineArg"),
    "a number as environment variable": ({"env": {"A": 1}}, "/env/A"),
    "an environment variable with a dash": ({"env": {"A-B": "x"}}, "A-B"),
    "a deadline of zero": ({"imagePullDeadlineSeconds": 0}, "imagePullDeadlineSeconds"),
    "a hang deadline of a second": ({"hangDeadlineSeconds": 1}, "hangDeadlineSeconds"),
    "a hub without a scheme": ({"hubEndpoint": "hub.example"}, "hubEndpoint"),
    "a gpuType in upper case, which no spec can name": ({"gpuTypes": {"H200": {}}}, "H200"),
    "a misspelt property of a gpuType": (gpu(memoryGib=139), "memoryGib"),
    "a price without a currency": (gpu(pricePerHour="4"), "currency"),
    "a spot price whose currency is null": (gpu(spotPricePerHour="4", currency=None), "currency"),
    "a price as a number": (gpu(pricePerHour=4, currency="USD"), "pricePerHour"),
    "a currency in lower case": (gpu(pricePerHour="4", currency="usd"), "currency"),
    "a flag of the operator in a profile": (
        {"engineProfiles": {"fast": {"args": ["--tensor-parallel-size", "2"]}}},
        "/engineProfiles/fast/args/0",
    ),
    "a way out to nowhere": ({"servingNetwork": {"egress": [{"ports": [443]}]}}, "/servingNetwork/egress/0"),
    "a Prometheus in a namespace that cannot exist": (
        {"servingNetwork": {"prometheusNamespaces": ["*"]}},
        "prometheusNamespaces",
    ),
    "fewer than no replicas": ({"replicas": -1}, "replicas"),
    "a scrape interval without a unit": ({"monitoring": {"interval": "30"}}, "interval"),
    "a misspelt monitor": ({"monitoring": {"serviceMonitors": True}}, "serviceMonitors"),
    "a namespace in upper case": ({"watchNamespace": "Team-A"}, "watchNamespace"),
    "a priority class in upper case": ({"priorityClassName": "High"}, "priorityClassName"),
}


@pytest.mark.parametrize(("given", "named"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused_by_name(helm: Callable[..., Any], given: Object, named: str) -> None:
    done = helm("template", {"images": IMAGES, **given}, "--kube-version", "1.36.3")
    assert done.returncode != 0
    assert named in done.stderr
