"""The slowdown by LoRA: when it is measured, what of the times counts, and who comes first."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from itertools import cycle
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from finetune_serving.agent import slowdown
from finetune_serving.agent.engine_client import EngineAnswerError, EngineClient, EngineSlowError
from finetune_serving.agent.slowdown import SlowdownWatch, Subject
from finetune_serving.gateway.ledger import Ledger
from tests.engine_stand_in import StandInEngine, session
from tests.unit.serving.pod import Pod, Publish

SUBJECT = Subject("engine-1", "base", "a--1")


class Engine:
    """Answers in so many seconds, in turn, or raises the error."""

    def __init__(self, error: Exception | None = None, **seconds: Sequence[float]) -> None:
        self.error = error
        self.seconds = {model.replace("_", "--"): cycle(times) for model, times in seconds.items()}
        self.asked: list[str] = []

    async def answer_seconds(self, model: str, _: int) -> float:
        self.asked.append(model)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return next(self.seconds[model])


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "QUIET_SECONDS", 0.0)


def watch(engine: Engine, *subjects: Subject | None, ledger: Ledger | None = None) -> SlowdownWatch:
    """One whose agent is at rest with the subjects in turn, and then with the last one for ever."""
    told = list(subjects)
    return SlowdownWatch(
        cast("EngineClient", engine), ledger or Ledger(), lambda: told.pop(0) if len(told) > 1 else told[0]
    )


async def ran(one: SlowdownWatch, turns: int = 200) -> None:
    """The watch has had its turns."""
    task = asyncio.create_task(one.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()


async def test_the_median_of_neighbours_after_the_first_counts() -> None:
    engine = Engine(base=[9.0, 2.0, 2.0, 4.0, 2.0, 1.0, 2.0], a_1=[0.1, 3.0, 3.0, 6.0, 3.0, 1.5, 9.0])
    one = watch(engine, SUBJECT)
    await ran(one)
    assert one.found is not None
    assert (one.found.version, one.found.ratio) == ("a--1", 1.5)
    assert time.time() - one.found.measured_at < 60
    assert engine.asked == ["base", "a--1"] * 7


async def test_times_that_scatter_are_no_result() -> None:
    engine = Engine(base=[1.0], a_1=[1.0, 1.5])
    one = watch(engine, SUBJECT)
    await ran(one, 1000)
    assert (one.found, len(engine.asked)) == (None, 2 * 25)


async def test_more_answers_are_compared_until_the_halves_agree() -> None:
    engine = Engine(base=[1.0], a_1=[9.0, *[1.2, 1.5] * 3, *[1.5, 1.2] * 3])
    one = watch(engine, SUBJECT)
    await ran(one, 400)
    assert one.found is not None
    assert (one.found.ratio, len(engine.asked)) == (1.35, 2 * 13)


async def test_each_engine_process_is_measured_once() -> None:
    engine = Engine(base=[1.0], a_1=[1.0])
    again = Subject("engine-2", "base", "a--1")
    one = watch(engine, *[SUBJECT] * 30, again)
    await ran(one, 400)
    assert len(engine.asked) == 28


@pytest.mark.parametrize(
    ("subjects", "asked"),
    [
        pytest.param([None], 0, id="an agent that has work to do"),
        pytest.param([SUBJECT, SUBJECT, None], 2, id="an agent that gets work in the middle"),
    ],
)
async def test_the_work_of_the_agent_comes_first(subjects: list[Subject | None], asked: int) -> None:
    engine = Engine(base=[1.0], a_1=[1.0])
    one = watch(engine, *subjects)
    await ran(one)
    assert (len(engine.asked), one.found) == (asked, None)


async def test_nothing_is_measured_soon_after_a_request() -> None:
    engine, ledger = Engine(base=[1.0], a_1=[1.0]), Ledger()
    ledger.last_asked = time.monotonic() + 60
    await ran(watch(engine, SUBJECT, ledger=ledger))
    assert engine.asked == []


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        pytest.param(EngineSlowError("late"), True, id="one that is late is asked again"),
        pytest.param(EngineAnswerError("400"), False, id="one that refuses is left alone"),
        pytest.param(ValueError("a defect"), False, id="a defect of ours ends nothing"),
    ],
)
async def test_an_engine_that_gives_no_answer(error: Exception, repeated: bool) -> None:
    engine = Engine(error)
    one = watch(engine, SUBJECT)
    await ran(one)
    assert (len(engine.asked) > 1, one.found) == (repeated, None)


async def test_a_version_that_goes_while_it_is_asked_does_not_end_the_measurement() -> None:
    class Removing(Engine):
        async def answer_seconds(self, model: str, tokens: int) -> float:
            if model == SUBJECT.version:
                raise EngineAnswerError("404")
            return await super().answer_seconds(model, tokens)

    one = watch(Removing(base=[1.0], b_1=[2.0]), SUBJECT, SUBJECT, Subject("engine-1", "base", "b--1"))
    await ran(one)
    assert one.found is not None
    assert (one.found.version, one.found.ratio) == ("b--1", 2.0)


@pytest.fixture
async def client(stand_in: StandInEngine) -> AsyncIterator[EngineClient]:
    async with session(stand_in.path, force_close=True) as calls:
        yield EngineClient(calls)


async def test_a_request_of_a_client_ends_the_measurement_in_the_engine(
    stand_in: StandInEngine, client: EngineClient
) -> None:
    stand_in.hold, ledger = asyncio.Event(), Ledger()
    stand_in.loras["a--1"] = "/a"
    one = SlowdownWatch(client, ledger, lambda: SUBJECT)
    task = asyncio.create_task(one.run())
    await stand_in.started.wait()
    with ledger.call(asyncio.timeout(None)):
        await stand_in.cancelled.wait()
        assert len(stand_in.bodies) == 1
    stand_in.hold.set()
    async with asyncio.timeout(30):
        while one.found is None:  # noqa: ASYNC110 - it is looked at, as Prometheus does
            await asyncio.sleep(0)
    task.cancel()


async def test_a_pod_is_at_rest_once_an_adapter_answers_and_nothing_is_left_to_do(
    pod: Pod, publish: Publish
) -> None:
    pod.write(1, [])
    await pod.until(lambda s: s.ready)
    assert pod.agent.at_rest() is None
    entry: dict[str, Any] = publish("a")
    pod.write(2, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.applied_generation == 2)
    await pod.until(lambda _: pod.agent.at_rest() == Subject("engine-1", "base", entry["name"]))
    pod.book.closing = True
    assert pod.agent.at_rest() is None


async def test_a_candidate_is_not_measured(pod: Pod, publish: Publish) -> None:
    tried, routed = publish("a"), publish("b")
    pod.write(1, [tried], candidates=(tried["name"],))
    await pod.until(lambda _: pod.phases() == {tried["name"]: "Ready"})
    assert pod.agent.at_rest() is None
    pod.write(2, [tried, routed], candidates=(tried["name"],), reviews=routed["name"])
    await pod.until(lambda _: pod.agent.at_rest() == Subject("engine-1", "base", routed["name"]))


async def test_the_result_is_a_metric_with_its_time_and_none_before() -> None:
    registry = CollectorRegistry()
    one = watch(Engine(base=[2.0], a_1=[3.0]), SUBJECT)
    registry.register(one)
    assert generate_latest(registry) == b""
    await ran(one)
    text = generate_latest(registry).decode()
    assert 'finetune_server_lora_slowdown_ratio{version="a--1"} 1.5' in text
    assert 'finetune_server_lora_slowdown_measured_timestamp_seconds{version="a--1"}' in text
