"""Which version answers a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.documents import ServerManifest, Target
from finetune_serving.gateway.errors import Refusal
from finetune_serving.gateway.routing import (
    RouteTable,
    model_cards,
    pick,
    resolve,
    steady_draw,
    table_of,
)

MANIFEST = ServerManifest.model_validate(
    {
        "schemaVersion": 1,
        "generation": 3,
        "base": {"name": "smollm2"},
        "routes": [
            {"alias": "reviews", "targets": [{"version": "reviews--1", "weight": 100}]},
            {"alias": "smollm2", "targets": [{"version": "thief--1", "weight": 100}]},
        ],
    }
)
TABLE = table_of(MANIFEST)


@pytest.mark.parametrize(
    ("model", "version"),
    [
        pytest.param("smollm2", "smollm2", id="the base answers to its own name, whatever an alias says"),
        pytest.param("reviews", "reviews--1", id="an alias is answered by its version"),
    ],
)
def test_resolve(model: str, version: str) -> None:
    assert resolve(TABLE, model, 0.5) == version


@pytest.mark.parametrize(
    ("table", "model", "asked"),
    [
        pytest.param(TABLE, "reviews--1", "", id="a concrete version is not a public name"),
        pytest.param(TABLE, "other", "", id="an unknown name is nobody"),
        pytest.param(TABLE, "", "", id="an empty name is nobody"),
        pytest.param(RouteTable(), "", "", id="an empty table knows no name"),
        pytest.param(TABLE, "reviews", "reviews--2", id="a version that the alias does not have"),
        pytest.param(TABLE, "smollm2", "thief--1", id="a version of another model than the base"),
    ],
)
def test_what_is_not_public_is_a_404(table: RouteTable, model: str, asked: str) -> None:
    with pytest.raises(Refusal) as refused:
        resolve(table, model, 0.5, asked)
    assert refused.value.status == 404


def test_a_candidate_answers_to_its_own_name_alone() -> None:
    table = RouteTable("smollm2", TABLE.aliases, {"candidate.run--1": "anna"})
    assert resolve(table, "candidate.run--1", 0.5) == "candidate.run--1"
    for model, asked in (
        ("candidate.run", ""),
        ("candidate.run--1", "reviews--1"),
        ("reviews", "candidate.run--1"),
    ):
        with pytest.raises(Refusal):
            resolve(table, model, 0.5, asked)
    assert "candidate.run--1" not in [card["id"] for card in model_cards(table, {})]
    assert ("candidate.run--1", "candidate.run--1") in table.pairs(), "its requests are counted"


def test_one_listed_version_can_be_asked_for() -> None:
    assert resolve(TABLE, "reviews", 0.5, "reviews--1") == "reviews--1"
    assert resolve(TABLE, "smollm2", 0.5, "smollm2") == "smollm2"


@given(caller=st.text(), before=st.integers(0, 100), more=st.integers(0, 100))
def test_growing_weights_move_callers_one_way_only(caller: str, before: int, more: int) -> None:
    after = min(100, before + more)
    draw = steady_draw("reviews", caller)
    picked = [
        pick([Target(version="old", weight=100 - new), Target(version="new", weight=new)], draw)
        for new in (before, after)
    ]
    assert picked != ["new", "old"]


def test_callers_are_spread_as_the_weights_say() -> None:
    targets = [Target(version="old", weight=80), Target(version="new", weight=20)]
    picked = [pick(targets, steady_draw("reviews", f"user-{number}")) for number in range(2000)]
    assert 320 < picked.count("new") < 480


@given(
    weights=st.lists(st.integers(0, 100), min_size=1, max_size=5),
    draw=st.floats(0, 1, exclude_max=True, allow_nan=False),
)
def test_a_target_without_weight_is_never_picked(weights: list[int], draw: float) -> None:
    targets = [Target(version=str(i), weight=weight) for i, weight in enumerate(weights)]
    picked = int(pick(targets, draw))
    assert weights[picked] > 0 or sum(weights) == 0


def test_models_list_the_base_and_the_aliases_with_the_time_of_their_version() -> None:
    cards = model_cards(TABLE, {"smollm2": 5, "reviews--1": 7})
    assert [(card["id"], card["created"], card.get("root")) for card in cards] == [
        ("smollm2", 5, "smollm2"),
        ("reviews", 7, "reviews--1"),
    ]
