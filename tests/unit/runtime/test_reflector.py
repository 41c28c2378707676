"""The reflector under the faults that a watch can have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from finetune_operator.runtime.cache import reflector as module
from finetune_operator.runtime.cache.reflector import Reflector, Watched
from finetune_operator.runtime.cache.store import Store
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.resources import JOB

JOBS = "/apis/batch/v1/jobs"


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the reflector paused each time; it does not really wait."""
    lengths: list[float] = []

    async def pause(seconds: float) -> None:
        lengths.append(seconds)

    monkeypatch.setattr(module, "sleep", pause)
    return lengths


def _job(name: str, version: int) -> dict[str, Any]:
    owner = [{"uid": "owner", "controller": True}]
    metadata = {"name": name, "namespace": "demo", "uid": f"uid-{name}", "ownerReferences": owner}
    return {"metadata": {**metadata, "resourceVersion": str(version)}}


def _names(store: Store) -> list[str]:
    return [job["metadata"]["name"] for job in store.owned_by("demo", "owner")]


@asynccontextmanager
async def _running(api: Any, changes: list[str]) -> Any:
    def changed(manifest: Any, gone: bool) -> None:
        changes.append(manifest["metadata"]["name"] + ("-" if gone else ""))

    loop = asyncio.get_running_loop()
    reflector = Reflector(api, Watched(JOB, None, "a=b", Store()), changed, loop.time, Metrics())
    task = asyncio.create_task(reflector.run())
    try:
        yield reflector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _settled(server: Any) -> None:
    await asyncio.wait_for(server.all_streams_used.wait(), 5)


async def test_a_list_longer_than_a_page_is_read_whole(server: Any, api: Any) -> None:
    for name in "abcde":
        server.put(f"{JOBS}/{name}", **_job(name, 1))
    async with _running(api, []) as reflector:
        await _settled(server)
        assert _names(reflector.store) == list("abcde")
        assert reflector.store.get("demo", "a")["kind"] == "Job"


async def test_events_change_the_store_and_wake_the_owner(server: Any, api: Any) -> None:
    server.streams.append(
        [
            {"type": "ADDED", "object": _job("a", 201)},
            {"type": "ADDED", "object": _job("b", 202)},
            {"type": "DELETED", "object": _job("a", 203)},
            {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "250"}}},
        ]
    )
    changes: list[str] = []
    async with _running(api, changes) as reflector:
        await _settled(server)
        assert _names(reflector.store) == ["b"]
        assert changes == ["a", "b", "a-"]
        assert server.watched_from[-1] == "250", "a bookmark moves the version to resume from"


async def test_what_was_deleted_while_the_watch_was_cut_is_reported_by_the_next_list(
    server: Any, api: Any
) -> None:
    server.put(f"{JOBS}/a", **_job("a", 1))
    server.put(f"{JOBS}/b", **_job("b", 1))
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    server.streams.append([gone])
    changes: list[str] = []
    async with _running(api, changes) as reflector:
        await reflector.synced.wait()
        del server.objects[f"{JOBS}/a"]
        await _settled(server)
        assert _names(reflector.store) == ["b"]
        assert changes == ["a", "b", "a-"], "the second a is the deletion that no event told of"


_BROKEN: list[tuple[str, Callable[[], list[Any]]]] = [
    ("garbage bytes", lambda: [b"\xff\x00 not json\n"]),
    ("an event without an object", lambda: [{"type": "ADDED"}]),
    ("an unknown event type", lambda: [{"type": "SURPRISE", "object": _job("x", 300)}]),
    ("an internal error", lambda: [{"type": "ERROR", "object": {"code": 500, "message": "etcd"}}]),
    ("an ERROR event that is a string", lambda: [{"type": "ERROR", "object": {"code": None}}]),
    ("half a line", lambda: [b'{"type": "ADD']),
    ("an empty stream", list),
]


@pytest.mark.parametrize("stream", [s for _, s in _BROKEN], ids=[name for name, _ in _BROKEN])
async def test_a_broken_stream_is_followed_by_a_complete_store(server: Any, api: Any, stream: Any) -> None:
    server.put(f"{JOBS}/a", **_job("a", 1))
    server.streams.append(stream())
    async with _running(api, []) as reflector:
        await _settled(server)
        assert _names(reflector.store) == ["a"]


async def test_a_refused_list_is_tried_again_and_synced_waits(server: Any, api: Any) -> None:
    for _ in range(3):
        server.fault("GET", JOBS, 403, "Forbidden")
    server.put(f"{JOBS}/a", **_job("a", 1))
    async with _running(api, []) as reflector:
        assert not reflector.synced.is_set()
        await _settled(server)
        assert reflector.synced.is_set()
        assert _names(reflector.store) == ["a"]


async def test_a_throttled_watch_waits_as_long_as_the_server_asks_and_keeps_its_version(
    server: Any, api: Any, pauses: list[float]
) -> None:
    server.watch_faults.append(web.json_response({}, status=429, headers={"Retry-After": "7"}))
    async with _running(api, []):
        await _settled(server)
    assert pauses == [7.0]
    assert server.seen.count(("GET", JOBS)) == 3, "one list and two watches"


async def test_a_watch_that_ends_at_once_is_restarted_more_and_more_slowly(
    server: Any, api: Any, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 1.0)
    server.streams.extend([[], [], []])
    async with _running(api, []):
        await _settled(server)
    assert all(0.5 * 2**n <= seconds <= 2**n for n, seconds in enumerate(pauses)), pauses
    assert len(pauses) == 3
    assert server.seen.count(("GET", JOBS)) == 5, "nothing is listed again"


async def test_failures_in_a_row_are_forgotten_by_an_event_and_not_by_a_list(
    server: Any, api: Any, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 1.0)
    gone = {"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}
    server.streams.extend([[gone], [gone], [{"type": "ADDED", "object": _job("a", 300)}, gone]])
    async with _running(api, []):
        await _settled(server)
    assert pauses[0] <= 1.0 <= pauses[1], "two lists came between"
    assert pauses[2] <= 1.0, "an event came between"
