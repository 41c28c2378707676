"""Equal events are folded, within one process and across two."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.runtime.events import Recorder

EVENTS = "/api/v1/namespaces/demo/events"
OWNER = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "run", "namespace": "demo", "uid": "u1"},
}


class Clock:
    """A clock that the test moves."""

    now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def _recorded(recorder: Recorder, *event: Any) -> None:
    """Record and wait until it is written."""
    recorder.record(*event)
    writer = asyncio.create_task(recorder.run())
    await recorder.flushed()
    writer.cancel()


def _events(server: Any) -> list[dict[str, Any]]:
    return [o for path, o in server.objects.items() if path.startswith(EVENTS)]


async def test_a_repeated_event_is_counted_and_written_once_a_minute(
    server: Any, api: Any, clock: Clock
) -> None:
    recorder = Recorder(api, clock)
    for _ in range(5):
        await _recorded(recorder, OWNER, "Warning", "Refused", "no quota")
    assert [method for method, _ in server.seen] == ["POST"]
    clock.now += timedelta(seconds=61)
    await _recorded(recorder, OWNER, "Warning", "Refused", "no quota")
    (event,) = _events(server)
    assert event["count"] == 6


async def test_a_restarted_operator_counts_on(server: Any, api: Any, clock: Clock) -> None:
    for _ in range(3):
        await _recorded(Recorder(api, clock), OWNER, "Normal", "Started", "prepare")
    (event,) = _events(server)
    assert event["count"] == 3


async def test_different_messages_are_different_events(server: Any, api: Any, clock: Clock) -> None:
    recorder = Recorder(api, clock)
    await _recorded(recorder, OWNER, "Normal", "Started", "prepare")
    await _recorded(recorder, OWNER, "Normal", "Started", "train")
    assert len(_events(server)) == 2


async def test_an_event_that_the_server_dropped_is_written_anew(server: Any, api: Any, clock: Clock) -> None:
    recorder = Recorder(api, clock)
    await _recorded(recorder, OWNER, "Normal", "Started", "prepare")
    server.objects.clear()
    clock.now += timedelta(hours=2)
    await _recorded(recorder, OWNER, "Normal", "Started", "prepare")
    (event,) = _events(server)
    assert event["count"] == 1


async def test_a_long_message_is_cut_to_what_the_server_takes(server: Any, api: Any, clock: Clock) -> None:
    await _recorded(Recorder(api, clock), OWNER, "Warning", "Refused", "é" * 2000)
    (event,) = _events(server)
    assert len(event["message"].encode()) <= 1024
