"""The queue against the rules of client-go's workqueue; time is a number here."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.runtime.queue import QueueClosedError, Schedule, WorkQueue


def test_a_key_added_twice_is_handed_out_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", now=0)
    schedule.add("a", now=0)
    assert [schedule.pop(0), schedule.pop(0)] == ["a", None]


def test_a_key_added_while_a_worker_holds_it_comes_again_after_done() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", now=0)
    schedule.pop(0)
    schedule.add("a", now=1)
    assert schedule.pop(1) is None
    schedule.done("a")
    assert schedule.pop(1) == "a"


def test_done_without_a_new_wish_does_not_bring_the_key_back() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", now=0)
    schedule.pop(0)
    schedule.done("a")
    assert schedule.pop(1000) is None
    assert schedule.next_due() is None


@pytest.mark.parametrize(
    ("delays", "due"),
    [((5.0,), 5.0), ((5.0, 1.0), 1.0), ((1.0, 5.0), 1.0), ((0.0, 9.0), 0.0)],
    ids=["one delay", "an earlier wish wins", "a later wish changes nothing", "now beats later"],
)
def test_the_earliest_wish_counts(delays: tuple[float, ...], due: float) -> None:
    schedule: Schedule[str] = Schedule()
    for delay in delays:
        schedule.add("a", now=0, delay=delay)
    assert schedule.next_due() == due
    assert schedule.pop(due) == "a"
    assert schedule.pop(100) is None


def test_backoff_doubles_up_to_the_limit_and_forget_resets_it() -> None:
    schedule: Schedule[str] = Schedule(first=1, longest=5)
    delays = []
    for _ in range(5):
        delays.append(schedule.backoff("a", now=0))
        schedule.pop(1000)
        schedule.done("a")
    schedule.forget("a")
    assert delays == [1, 2, 4, 5, 5]
    assert schedule.backoff("a", now=0) == 1


def test_backoff_may_have_a_limit_of_its_own() -> None:
    schedule: Schedule[str] = Schedule(first=1, longest=300)
    for _ in range(20):
        schedule.backoff("a", now=0, at_most=5)
    assert schedule.backoff("a", now=0, at_most=5) == 5
    assert schedule.backoff("a", now=0) == 300


def test_backoff_of_one_key_does_not_delay_another() -> None:
    schedule: Schedule[str] = Schedule(first=10)
    schedule.backoff("a", now=0)
    schedule.add("b", now=0)
    assert schedule.pop(0) == "b"


def test_urgent_keys_come_first_and_every_fourth_is_another() -> None:
    schedule: Schedule[str] = Schedule()
    for number in range(4):
        schedule.add(f"pod {number}", now=0)
    for number in range(6):
        schedule.add(f"user {number}", now=1, urgent=True)
    handed = [str(schedule.pop(1)).split()[0] for _ in range(10)]
    assert handed == ["user"] * 3 + ["pod"] + ["user"] * 3 + ["pod"] * 3


def test_a_key_becomes_urgent_without_being_handed_out_twice() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.add("a", now=0)
    schedule.add("b", now=0)
    schedule.add("b", now=5, urgent=True)
    assert [schedule.pop(0), schedule.pop(0), schedule.pop(9)] == ["b", "a", None]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "hurry", "pop", "done", "backoff", "forget"]),
        st.sampled_from("abc"),
        st.integers(0, 4),
    ),
    max_size=60,
)


@given(_STEPS)
def test_no_key_is_held_twice_and_no_wish_is_lost(steps: list[tuple[str, str, int]]) -> None:
    schedule: Schedule[str] = Schedule(first=1)
    held: list[str] = []
    owed: set[str] = set()
    now = 0.0
    for step, key, delay in steps:
        now += 1
        if step == "add":
            schedule.add(key, now, delay)
            owed.add(key)
        elif step == "hurry":
            schedule.add(key, now, delay, urgent=True)
            owed.add(key)
        elif step == "backoff":
            schedule.backoff(key, now)
            owed.add(key)
        elif step == "forget":
            schedule.forget(key)
        elif step == "done" and held:
            schedule.done(held.pop(0))
        elif step == "pop" and (popped := schedule.pop(now)) is not None:
            assert popped not in held
            held.append(popped)
            owed.discard(popped)
    for key in held:
        schedule.done(key)
    handed_out: set[str] = set()
    while (rest := schedule.pop(1e9)) is not None:
        assert rest not in handed_out
        handed_out.add(rest)
    assert handed_out == owed


async def test_a_waiting_worker_gets_what_is_added_later() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    assert await asyncio.wait_for(worker, 1) == "a"


async def test_close_ends_waiting_workers_and_drained_waits_for_the_busy_ones() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    queue.add("a")
    await queue.get()
    waiting = asyncio.create_task(queue.get())
    drained = asyncio.create_task(queue.drained())
    await asyncio.sleep(0)
    queue.close()
    with pytest.raises(QueueClosedError):
        await waiting
    assert not drained.done()
    queue.done("a")
    await asyncio.wait_for(drained, 1)


@pytest.mark.parametrize("ticks", range(6))
async def test_a_worker_that_is_cancelled_while_it_is_woken_ends(ticks: int) -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    queue.add("later", delay=2000)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    queue.add("sooner", delay=1000)
    for _ in range(ticks):
        await asyncio.sleep(0)
    worker.cancel()
    done, _ = await asyncio.wait([worker], timeout=1)
    assert done == {worker}
    assert worker.cancelled()
