"""Who gets the requests of an alias in a pod that does not have all of its versions."""

import pytest

from finetune_serving.agent.record import Record
from finetune_serving.agent.routes import alias_states, answering, refusals
from finetune_serving.documents import Route, ServerManifest, Target, VersionEntry

ROUTE = Route(alias="x", targets=(Target(version="old", weight=90), Target(version="new", weight=10)))
MANIFEST = ServerManifest.model_validate(
    {"schemaVersion": 1, "generation": 1, "base": {"name": "base"}, "routes": [ROUTE.model_dump()]}
)


@pytest.mark.parametrize(
    ("ready", "weights"),
    [
        pytest.param({"old", "new"}, [("old", 90), ("new", 10)], id="both answer"),
        pytest.param({"old"}, [("old", 90), ("new", 0)], id="the canary cannot be had"),
        pytest.param({"new"}, [("new", 10), ("old", 0)], id="only the canary can be had"),
        pytest.param(set(), [("old", 90), ("new", 10)], id="neither can be had"),
    ],
)
def test_weights_in_force(ready: set[str], weights: list[tuple[str, int]]) -> None:
    assert [(t.version, t.weight) for t in answering(ROUTE, frozenset(ready))] == weights


PAUSED = Route(alias="x", targets=(Target(version="old", weight=100), Target(version="new", weight=0)))


def test_a_version_without_weight_is_no_stand_in_for_the_one_that_answers() -> None:
    assert answering(PAUSED, frozenset({"new"})) == PAUSED.targets
    states = alias_states(MANIFEST, {"x": PAUSED}, records(old="Failed", new="Ready"), engine_up=True)
    assert (states[0].answers, states[0].reason) == (False, "Failed")
    assert "(Failed)" in refusals(states, {"x": PAUSED}, frozenset({"old"}))["x"]


def records(**phases: str) -> dict[str, Record]:
    digest = "sha256:" + "a" * 64
    entries = {name: VersionEntry(name=name, source="pvc://c/x", digest=digest) for name in phases}
    return {name: Record(entries[name], phase=phase) for name, phase in phases.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phases", "engine_up", "answers", "reason"),
    [
        pytest.param({"old": "Ready", "new": "Ready"}, True, True, "", id="all is well"),
        pytest.param({"old": "Ready", "new": "Loading"}, True, True, "Loading", id="one version is missing"),
        pytest.param({"old": "Loading", "new": "Loading"}, True, False, "Loading", id="nothing is loaded"),
        pytest.param({"old": "Ready"}, True, True, "NotListed", id="a route to an unlisted version"),
        pytest.param({"old": "Ready", "new": "Ready"}, False, False, "EngineDown", id="the engine is down"),
    ],
)
def test_what_an_alias_says(phases: dict[str, str], engine_up: bool, answers: bool, reason: str) -> None:
    said = alias_states(MANIFEST, {"x": ROUTE}, records(**phases), engine_up=engine_up)[0]
    assert (said.answers, said.reason) == (answers, reason)


def test_only_an_alias_that_cannot_be_had_is_refused_at_once() -> None:
    states = alias_states(MANIFEST, {"x": ROUTE}, records(old="Failed", new="Loading"), engine_up=True)
    assert refusals(states, {"x": ROUTE}, frozenset({"old"})) == {}
    assert "(Failed)" in refusals(states, {"x": ROUTE}, frozenset({"old", "new"}))["x"]
