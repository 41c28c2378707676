"""Which version answers a name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_serving.documents import ServerManifest, Target
from finetune_serving.gateway.routing import model_cards, pick, resolve, table_of

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
        pytest.param("reviews--1", None, id="a concrete version is not a public name"),
        pytest.param("other", None, id="an unknown name is nobody"),
        pytest.param("", None, id="an empty name is nobody"),
    ],
)
def test_resolve(model: str, version: str | None) -> None:
    assert resolve(TABLE, model, 0.5) == version


def test_an_empty_table_knows_no_name() -> None:
    from finetune_serving.gateway.routing import RouteTable

    assert resolve(RouteTable(), "", 0.0) is None


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
        ("smollm2", 5, None),
        ("reviews", 7, "reviews--1"),
    ]
