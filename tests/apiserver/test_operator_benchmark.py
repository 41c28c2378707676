"""benchmarks.operator runs to its end at a tiny size and measures every figure."""

from __future__ import annotations

import pytest

from benchmarks.operator.__main__ import AFTERWARDS, Durations, measure

pytestmark = [pytest.mark.apiserver, pytest.mark.slow]


async def test_it_measures_every_figure_of_a_few_runs() -> None:
    found = await measure(4, ("first-jobs", *AFTERWARDS), Durations(under_way=2, latency=1, settle=2))
    first, plain = found["firstJobs"], found["plainHandler"]
    assert found["ratio"] == pytest.approx(first["jobsPerSecond"] / plain["jobsPerSecond"], abs=0.01)
    assert first["requestsPerObject"]["create jobs"] == 1
    assert found["latency"]["changes"] == 4
    assert found["latency"]["p50Seconds"] <= found["latency"]["p99Seconds"] <= found["latency"]["maxSeconds"]
    # The one that warmed up, the active ones, the one that went through and its copies.
    assert found["restart"]["objects"] == 1 + 4 + 1 + 8
    assert found["memory"]["residentMiB"] > 0
