"""Whether a new version answers as well as its limits ask for.

A limit is exceeded when the sample proves it (bounds.py), and kept when the sample itself keeps it; between
the two more requests decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_operator.api.rollout import RolloutAnalysis, StepCounts, Verdict, VersionCounts
from finetune_operator.canary.bounds import Count, Mean, least_increase, least_ratio, ratio

LEAST = 20
"""Fewer requests prove nothing: the failures of one moment would."""


@dataclass(frozen=True)
class Judgement:
    """What the analysis says of a step, and why."""

    verdict: Verdict
    message: str


@dataclass(frozen=True)
class Finding:
    """One limit, the measured value and the least that the true one is; `said` tells it in words."""

    limit: float
    value: float
    at_least: float
    compares: bool
    said: str


def judge(analysis: RolloutAnalysis, counts: StepCounts) -> Judgement:
    """The verdict on a step so far; the first limit that is exceeded is told."""
    before, after = counts.stable, counts.canary
    found = tuple(_findings(analysis, before, after))
    enough = after.requests >= min(LEAST, analysis.min_requests)
    exceeded = next((f for f in found if f.at_least > f.limit), None)
    if enough and exceeded is not None:
        return Judgement("Fail", f"{exceeded.said}, and not by chance.")
    missing = _missing(analysis, counts, any(f.compares for f in found))
    if missing is not None:
        return Judgement("Waiting", missing)
    doubtful = next((f for f in found if f.value > f.limit), None)
    if doubtful is not None:
        return Judgement("Inconclusive", f"{doubtful.said}, which may be chance; more requests will tell.")
    return Judgement("Pass", f"All limits are kept over {after.requests} requests.")


def _missing(analysis: RolloutAnalysis, counts: StepCounts, compares: bool) -> str | None:
    least = analysis.min_requests
    if counts.canary.requests < least:
        return f"The new version has answered {counts.canary.requests} of {least} requests (minRequests)."
    if compares and counts.stable.requests < least:
        return f"The version before has answered {counts.stable.requests} of {least} requests (minRequests)."
    return None


def _findings(analysis: RolloutAnalysis, before: VersionCounts, after: VersionCounts) -> Iterator[Finding]:
    if analysis.max_error_rate is not None:
        yield _rate(float(analysis.max_error_rate), Count(after.failures, after.requests))
    for name, limit, what, old, new in (
        ("maxErrorRateIncrease", analysis.max_error_rate_increase, "failed", before.failures, after.failures),
        ("maxEmptyIncrease", analysis.max_empty_increase, "were answered empty", before.empty, after.empty),
        ("maxCutIncrease", analysis.max_cut_increase, "were cut", before.cut, after.cut),
    ):
        if limit is not None:
            one, other = Count(old, before.requests), Count(new, after.requests)
            yield _increase(name, float(limit), what, one, other)
    for name, limit, what, old_mean, new_mean in (
        ("maxLatencyRatio", analysis.max_latency_ratio, "An answer", _answer(before), _answer(after)),
        ("maxFirstByteRatio", analysis.max_first_byte_ratio, "The first byte", _first(before), _first(after)),
    ):
        if limit is not None:
            yield _slower(name, float(limit), what, old_mean, new_mean)


def _rate(limit: float, count: Count) -> Finding:
    said = f"{count.hits} of {count.total} requests failed, maxErrorRate is {limit:g}"
    return Finding(limit, count.share, count.at_least, compares=False, said=said)


def _increase(name: str, limit: float, what: str, before: Count, after: Count) -> Finding:
    said = (
        f"{after.hits} of {after.total} requests {what}, {before.hits} of {before.total} of the version "
        f"before, {name} is {limit:g}"
    )
    grown = after.share - before.share
    return Finding(limit, grown, least_increase(before, after), compares=True, said=said)


def _slower(name: str, limit: float, what: str, before: Mean, after: Mean) -> Finding:
    said = (
        f"{what} took {after.value / 1000:.2f} s on average of {after.total} requests, "
        f"{before.value / 1000:.2f} s of {before.total} of the version before, {name} is {limit:g}"
    )
    return Finding(limit, ratio(before, after), least_ratio(before, after), compares=True, said=said)


def _answer(counts: VersionCounts) -> Mean:
    return Mean(counts.milliseconds, counts.requests, counts.batches, counts.squares)


def _first(counts: VersionCounts) -> Mean:
    return Mean(counts.first_byte_milliseconds, counts.requests, counts.batches, counts.first_byte_squares)
