"""How long the pods of an attempt have their nodes, and with them their GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from finetune_operator.api.finetunejobstatus import Attempt
from finetune_operator.api.plan import Manifest
from finetune_operator.api.times import format_time
from finetune_operator.stages.outcome import unfinished
from finetune_operator.stages.reading import condition, items, moment, text


def held(attempt: Attempt, pods: Sequence[Manifest], now: datetime) -> Attempt:
    """The attempt with `held_since` and `held_seconds` brought up to what its pods show.

    All GPUs of a gang count from its first pod's placing to its last pod's end. A suspended attempt has no
    pods and holds nothing.
    """
    placed = [pod for pod in pods if text(pod, "spec", "nodeName")]
    running = unfinished(placed)
    since = moment({"at": attempt.held_since}, "at")
    if since is not None:
        return attempt if running else _closed(attempt, since, _end(placed, since, now))
    if running:
        return attempt.model_copy(update={"held_since": format_time(_begin(running, now))})
    if placed and attempt.held_seconds is None:  # they came and went unseen
        begun = _begin(placed, now)
        return _closed(attempt, begun, _end(placed, begun, now))
    return attempt


def seconds(attempt: Attempt, now: datetime) -> int:
    """How long it has held its GPUs; what runs counts in whole minutes, so that a status is not written with
    every look at the clock.
    """
    since = moment({"at": attempt.held_since}, "at")
    running = 0 if since is None else max(0, int((now - since).total_seconds()) // 60 * 60)
    return (attempt.held_seconds or 0) + running


def _closed(attempt: Attempt, since: datetime, end: datetime) -> Attempt:
    passed = (attempt.held_seconds or 0) + max(0, round((end - since).total_seconds()))
    return attempt.model_copy(update={"held_since": None, "held_seconds": passed})


def _begin(pods: Sequence[Manifest], now: datetime) -> datetime:
    return min((start for pod in pods if (start := _placed_at(pod)) is not None), default=now)


def _placed_at(pod: Manifest) -> datetime | None:
    return (
        moment(condition(pod, "PodScheduled"), "lastTransitionTime")
        or moment(pod, "status", "startTime")
        or moment(pod, "metadata", "creationTimestamp")
    )


def _end(pods: Sequence[Manifest], since: datetime, now: datetime) -> datetime:
    """When the last container ended; now, when no pod is left that tells."""
    return max((end for pod in pods for end in _ends(pod) if since <= end <= now), default=now)


def _ends(pod: Manifest) -> Iterator[datetime]:
    for container in items(pod, "status", "containerStatuses"):
        ended = moment(container, "state", "terminated", "finishedAt")
        if ended is not None:
            yield ended
