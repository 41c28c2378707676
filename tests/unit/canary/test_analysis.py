"""What samples prove, what is counted, and the verdict."""

from __future__ import annotations

from math import comb, inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.api.rollout import (
    ProcessCounters,
    RolloutAnalysis,
    StepCounts,
    VersionCounts,
)
from finetune_operator.canary.analysis import judge
from finetune_operator.canary.bounds import CHANCE, Count, Mean, least_increase, least_ratio
from finetune_operator.canary.counting import MOST, counted


def _at_least(hits: int, total: int, share: float) -> float:
    """The probability of so many hits or more."""
    return sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(hits, total + 1))


@given(st.integers(1, 60), st.data())
def test_a_bound_of_a_share_is_wrong_no_more_often_than_it_says(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(1, total))
    count = Count(hits, total)
    assert 0 <= count.at_least <= count.share <= count.at_most <= 1
    assert _at_least(hits, total, count.at_least) <= CHANCE * 1.0001


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))
def test_no_increase_is_proven_beyond_what_was_seen(a: int, b: int, c: int, d: int) -> None:
    before, after = Count(min(a, b), b), Count(min(c, d), d)
    assert least_increase(before, after) <= after.share - before.share + 1e-9


def test_more_requests_prove_more() -> None:
    seen = [least_increase(Count(n // 100, n), Count(n // 10, n)) for n in (100, 1000, 10_000)]
    assert seen == sorted(seen)
    assert seen[0] < 0.02 < seen[2]


def test_means_prove_nothing_without_batches() -> None:
    few = Mean(sum=100_000, total=100, batches=2, squares=1e8)
    assert few.error == inf
    assert least_ratio(few, few) == 0.0


def counts(stable: dict[str, Any], canary: dict[str, Any]) -> StepCounts:
    return StepCounts(
        stable=VersionCounts.model_validate(stable), canary=VersionCounts.model_validate(canary)
    )


def steady(requests: int, seconds: float, **more: int) -> dict[str, Any]:
    """Requests in twenty batches that all took alike long."""
    spent = int(requests * seconds * 1000)
    squares = spent * spent / requests
    told = {"milliseconds": spent, "firstByteMilliseconds": spent, "batches": 20}
    return {"requests": requests, **told, "squares": squares, "firstByteSquares": squares, **more}


VERDICTS = [
    pytest.param({"maxErrorRate": "0.02"}, {}, {"requests": 99}, "Waiting", id="one request too few"),
    pytest.param(
        {"maxErrorRate": "0.02"}, {}, {"requests": 19, "failures": 19}, "Waiting",
        id="a moment in which all fail proves nothing",
    ),
    pytest.param(
        {"maxErrorRate": "0.02"}, {}, {"requests": 20, "failures": 20}, "Fail", id="all of twenty fail"
    ),
    pytest.param({"maxErrorRate": "0.02"}, {}, {"requests": 100, "failures": 2}, "Pass", id="at the limit"),
    pytest.param(
        {"maxErrorRate": "0.02"}, {}, {"requests": 100, "failures": 4}, "Inconclusive", id="above it by chance"
    ),
    pytest.param(
        {"maxErrorRateIncrease": "0.01"}, {"requests": 50}, {"requests": 500}, "Waiting",
        id="too few requests of the version before to compare with",
    ),
    pytest.param(
        {"maxErrorRateIncrease": "0.01"}, {"requests": 900, "failures": 450},
        {"requests": 100, "failures": 50}, "Pass", id="both fail alike: it is not the new version",
    ),
    pytest.param(
        {"maxErrorRate": "0.02"}, {"requests": 900, "failures": 450}, {"requests": 100, "failures": 50},
        "Fail", id="both fail alike, but the limit is absolute",
    ),
    pytest.param(
        {"maxEmptyIncrease": "0.01"}, {"requests": 900}, {"requests": 100, "empty": 60}, "Fail",
        id="answers without content",
    ),
    pytest.param(
        {"maxCutIncrease": "0.05"}, {"requests": 900, "cut": 90}, {"requests": 100, "cut": 90}, "Fail",
        id="answers that are cut",
    ),
    pytest.param(
        {"maxLatencyRatio": "1.5"}, steady(900, 1), steady(100, 2), "Fail", id="answers take twice as long"
    ),
    pytest.param(
        {"maxLatencyRatio": "1.5"}, steady(900, 1), steady(100, 1.4), "Pass", id="a little slower"
    ),
    pytest.param(
        {"maxFirstByteRatio": "1.5"}, steady(900, 1), steady(100, 2), "Fail", id="the first byte comes late"
    ),
    pytest.param(
        {"maxErrorRate": "0.02", "maxLatencyRatio": "1.5"}, steady(900, 1), steady(100, 2, failures=90),
        "Fail", id="two limits exceeded",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("limits", "stable", "canary", "verdict"), VERDICTS)
def test_the_verdict(
    limits: dict[str, str], stable: dict[str, Any], canary: dict[str, Any], verdict: str
) -> None:
    analysis = RolloutAnalysis.model_validate(limits)
    found = judge(analysis, counts(stable, canary))
    assert found.verdict == verdict
    assert verdict not in ("Fail", "Inconclusive") or any(name in found.message for name in limits)


def told(process: str, stable: int, canary: int, failures: int = 0) -> ProcessCounters:
    return ProcessCounters(
        process=process, stable=(stable, 0, 0, 0, 0, 0), canary=(canary, failures, 0, 0, canary, 0)
    )


COUNTED = [
    pytest.param([[told("a", 900, 0)], [told("a", 950, 5)]], (50, 5), id="what was before the step is not"),
    pytest.param(
        [[told("a", 0, 0)], [told("a", 0, 50)], [told("b", 0, 7)], [told("b", 0, 10)]], (0, 53),
        id="a process that is gone keeps what it told, a new one counts from its first answer on",
    ),
    pytest.param(
        [[told("a", 0, 0)], [told("a", 0, 50)], [told("a", 0, 20)]], (0, 70), id="a version loaded anew"
    ),
    pytest.param([[told("a", 0, 0)], [], [told("a", 0, 9)]], (0, 0), id="a pod that nobody saw for a look"),
    pytest.param([[told("a", 0, 0)], [told("a", MOST, MOST)]], (MOST, MOST), id="a pod that talks nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "expected"), COUNTED)
def test_what_is_counted(looks: list[list[ProcessCounters]], expected: tuple[int, int]) -> None:
    found: StepCounts | None = None
    for look in looks:
        found = counted(found, look)
    assert found is not None
    assert (found.stable.requests, found.canary.requests) == expected


@given(st.lists(st.integers(0, 2**62), min_size=12, max_size=12))
def test_whatever_a_pod_tells_can_be_stored(numbers: list[int]) -> None:
    absurd = ProcessCounters(process="a", stable=tuple(numbers[:6]), canary=tuple(numbers[6:]))
    nothing = ProcessCounters(process="a", stable=(0,) * 6, canary=(0,) * 6)
    found = counted(counted(None, [nothing]), [absurd])
    assert all(value < 2**53 for value in found.canary.to_dict().values() if isinstance(value, int))
