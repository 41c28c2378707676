"""One version's trouble stays its own: others and the base answer on, whatever an artifact, a store or the
engine does to it.
"""

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.agent import agent, steps
from finetune_serving.agent.artifact import Staged, stage
from tests.engine_stand_in import StandInEngine
from tests.unit.serving.pod import Pod, Publish, Users

CHAT = "/v1/completions"


@contextlib.asynccontextmanager
async def healthy(pod: Pod, publish: Publish) -> AsyncIterator[dict[str, Any]]:
    """Eight clients of a healthy alias, none of whose requests may fail."""
    entry = publish("good")
    pod.write(1, [entry], good=entry["name"])
    await pod.until(lambda s: s.ready)
    async with pod.api() as api:
        users = Users(api, "good")
        yield entry
        assert await users.stop() == []


async def ask(pod: Pod, model: str) -> tuple[int, dict[str, Any]]:
    async with pod.api() as api, api.post(CHAT, json={"model": model, "prompt": "x"}) as response:
        return response.status, await response.json()


def symlink_loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


def folder_instead_of_file(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


@pytest.mark.parametrize(
    ("config", "damage"),
    [
        pytest.param({"rank_pattern": ["q_proj"]}, None, id="rank_pattern is a list"),
        pytest.param({"rank_pattern": "x"}, None, id="rank_pattern is a string"),
        pytest.param({"r": [8]}, None, id="r is a list"),
        pytest.param({}, symlink_loop, id="the folder is a loop of links"),
        pytest.param({}, folder_instead_of_file, id="manifest.json is a folder"),
        pytest.param({}, shutil.rmtree, id="nothing is there"),
    ],
)
async def test_an_odd_artifact_harms_nobody_else(
    pod: Pod, publish: Publish, config: dict[str, Any], damage: Callable[[Path], None] | None
) -> None:
    async with healthy(pod, publish) as good:
        bad = publish("bad", config=config)
        if damage:
            damage(pod.folder / "sources" / "pvc" / "adapters" / "bad")
        pod.write(2, [good, bad], good=good["name"])
        await pod.until(lambda _: pod.phases().get(bad["name"]) == "Failed")


async def test_an_error_that_nobody_thought_of_stays_with_its_version(
    pod: Pod, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with healthy(pod, publish) as good:

        def fail(*_: Any) -> Staged:
            raise RecursionError("nested beyond reason")

        monkeypatch.setattr(steps, "stage", fail)
        bad = publish("bad")
        pod.write(2, [good, bad], good=good["name"])
        state = await pod.until(lambda _: pod.phases().get(bad["name"]) == "Failed")
        assert next(v.message for v in state.versions if v.name == bad["name"]).startswith("RecursionError")
        monkeypatch.undo()
        await pod.until(lambda _: pod.phases().get(bad["name"]) == "Ready")  # tried again by itself


async def test_a_new_pod_serves_what_can_be_had_and_heals_when_the_rest_comes(
    pod: Pod, publish: Publish
) -> None:
    a, b = publish("a"), publish("b")
    folder = pod.folder / "sources" / "pvc" / "adapters" / "b"
    shutil.move(folder, folder.with_name("away"))
    pod.write(7, [a, b], x=a["name"], y=b["name"])
    state = await pod.until(lambda s: s.ready)
    assert (state.applied_generation, state.message) == (7, "")
    assert [(alias.alias, alias.answers, alias.reason) for alias in state.aliases] == [
        ("x", True, ""),
        ("y", False, "ArtifactMissing"),
    ]
    assert (await ask(pod, "x"))[0] == (await ask(pod, "base"))[0] == 200
    status, body = await ask(pod, "y")
    assert (status, "ArtifactMissing" in body["error"]["message"]) == (503, True)
    assert str(pod.folder) not in body["error"]["message"]
    shutil.move(folder.with_name("away"), folder)
    await pod.until(lambda _: pod.alias("y").answers)
    assert (await ask(pod, "y"))[0] == 200


async def test_a_store_that_hangs_delays_neither_other_copies_nor_a_reload(
    pod: Pod, publish: Publish, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, hanging = threading.Event(), publish("hanging")
    try:

        def hang(entry: Any, *rest: Any) -> Staged:
            if entry.name == hanging["name"]:
                released.wait(60)
            return stage(entry, *rest)

        monkeypatch.setattr(steps, "stage", hang)
        a, b = publish("a"), publish("b")
        pod.write(1, [hanging, a], x=a["name"])
        await pod.until(lambda s: s.ready)
        await stand_in.restart()
        await pod.until(lambda s: s.ready and s.engine_id == "engine-1+")
        pod.write(2, [hanging, a, b], x=a["name"], y=b["name"])
        await pod.until(lambda s: s.applied_generation == 2)
    finally:
        released.set()


async def test_a_new_pod_waits_for_a_large_adapter_from_a_slow_store(
    pod: Pod, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = publish("large")
    monkeypatch.setattr("finetune_serving.agent.converge.STALLED_SECONDS", 0.8)

    def drip(*args: Any) -> Staged:
        partial = pod.folder / "adapters" / f".{large['digest'][7:]}.partial"
        partial.mkdir(parents=True)
        for _ in range(10):
            with (partial / "adapter_model.safetensors").open("ab") as file:
                file.write(b"some bytes")
            time.sleep(0.2)  # the store, not the test, takes its time
        return stage(*args)

    monkeypatch.setattr(steps, "stage", drip)
    pod.write(1, [large], x=large["name"])
    state = await pod.until(lambda s: s.ready)
    assert state.aliases[0].answers


async def test_an_engine_that_fails_to_remove_an_adapter_is_not_down(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    async with healthy(pod, publish) as good:
        idle = publish("idle")
        pod.write(2, [good, idle], good=good["name"])
        await pod.until(lambda _: pod.phases().get(idle["name"]) == "Ready")
        stand_in.fail_removals = True
        pod.write(3, [good], good=good["name"])
        await pod.until(lambda s: any("trying again" in v.message for v in s.versions))
        assert pod.agent.state().ready
        stand_in.fail_removals = False
        await pod.until(lambda s: len(s.versions) == 1)


async def test_a_late_answer_about_its_health_does_not_take_an_engine_down(
    pod: Pod, publish: Publish, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_serving.agent.engine_client._HEALTH_SECONDS", 0.05)
    async with healthy(pod, publish):
        stand_in.slow_health = asyncio.Event()
        await asyncio.sleep(1.5)  # five looks in vain, while answers come
        assert pod.agent.state().ready
        stand_in.slow_health.set()


async def test_an_engine_that_nobody_hears_is_down_after_three_questions(
    pod: Pod, publish: Publish, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_serving.agent.engine_client._HEALTH_SECONDS", 0.05)
    pod.write(1, [])
    await pod.until(lambda s: s.ready)
    stand_in.slow_health = asyncio.Event()
    await pod.until(lambda s: not s.ready)
    assert pod.watch.verdict.silences >= 3
    stand_in.slow_health.set()
    await pod.until(lambda s: s.ready)


async def test_a_probe_that_starves_behind_other_adapters_is_no_failure(
    pod: Pod, publish: Publish, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_serving.agent.engine_client._PROBE_SECONDS", 0.2)
    good, new = publish("good"), publish("new")
    pod.write(1, [good], good=good["name"])
    await pod.until(lambda s: s.ready)
    stand_in.max_loras, stand_in.hold = 1, asyncio.Event()
    async with pod.api() as api:
        asked = asyncio.create_task(api.post(CHAT, json={"model": "good", "prompt": "x"}))
        await stand_in.started.wait()
        pod.write(2, [good, new], good=good["name"])
        state = await pod.until(lambda s: any("did not answer" in v.message for v in s.versions))
        assert state.ready
        assert pod.phases()[new["name"]] == "Verifying"
        stand_in.hold.set()
        assert (await asked).status == 200
        await pod.until(lambda _: pod.phases()[new["name"]] == "Ready")


@pytest.mark.parametrize("pod", [0.5], indirect=True)
async def test_an_engine_that_hangs_gets_no_requests_and_is_asked_to_end(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    entry = publish("a")
    pod.write(1, [entry], x=entry["name"])
    await pod.until(lambda s: s.ready)
    async with pod.api() as api:
        stand_in.hangs = True
        asked = asyncio.create_task(api.post(CHAT, json={"model": "x", "prompt": "x"}))
        state = await pod.until(lambda s: not s.ready)
        assert "has sent nothing for" in state.message
        await pod.until(lambda _: stand_in.exits == 1)
        asked.cancel()
        await stand_in.restart()
        await pod.until(lambda s: s.ready)
        assert (await ask(pod, "x"))[0] == 200


@pytest.mark.parametrize("pod", [0.5], indirect=True)
async def test_a_long_generation_is_no_hang(pod: Pod, publish: Publish, stand_in: StandInEngine) -> None:
    entry = publish("a")
    pod.write(1, [entry], x=entry["name"])
    await pod.until(lambda s: s.ready)
    async with pod.api() as api:
        stand_in.hold = asyncio.Event()
        asked = asyncio.create_task(api.post(CHAT, json={"model": "x", "prompt": "x"}))
        await stand_in.started.wait()
        probes = len(stand_in.seen)
        await pod.until(lambda _: len(stand_in.seen) > probes)  # one token of the base was asked for
        stand_in.hold.set()
        assert (await asked).status == 200
    assert (pod.agent.state().ready, stand_in.exits) == (True, 0)


async def test_a_request_that_outlasts_its_version_is_ended_and_counted(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    old, new = publish("old"), publish("new")
    pod.write(1, [old], x=old["name"])
    await pod.until(lambda s: s.ready)
    async with pod.api() as api:
        stand_in.hold = asyncio.Event()
        response = await api.post(CHAT, json={"model": "x", "prompt": "x", "stream": True})
        pod.write(2, [old, new], drain_seconds=1, x=new["name"])
        await pod.until(lambda s: s.applied_generation == 2)
        state = await pod.until(lambda s: next(v for v in s.versions if v.name == old["name"]).in_flight == 0)
        assert next(v.failures for v in state.versions if v.name == old["name"]) == 1
        response.close()
    pod.write(3, [new], drain_seconds=1, x=new["name"])
    await pod.until(lambda s: [v.name for v in s.versions] == [new["name"]])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        pytest.param("max_logprobs", 5, id="few log-probabilities are allowed"),
        pytest.param("max_logprobs", 0, id="only those of the chosen tokens are allowed"),
        pytest.param("max_model_len", 16, id="a context of 16 tokens"),
        pytest.param("noise", 0.7, id="an engine whose numbers are noisy"),
    ],
)
async def test_an_engine_that_allows_little_serves_adapters_all_the_same(
    pod: Pod, publish: Publish, stand_in: StandInEngine, setting: str, value: float
) -> None:
    setattr(stand_in, setting, value)
    entry = publish("a")
    pod.write(1, [entry], x=entry["name"])
    await pod.until(lambda _: pod.phases().get(entry["name"]) == "Ready")


async def test_the_base_is_probed_once_for_many_adapters(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    entries = [publish(f"a{i}") for i in range(5)]
    pod.write(1, entries, **{f"x{i}": entry["name"] for i, entry in enumerate(entries)})
    await pod.until(lambda s: s.ready)
    assert stand_in.seen.count("base") == 2
    assert len(stand_in.seen) == 2 + len(entries)


async def test_an_adapter_with_unreadable_numbers_spoils_neither_others_nor_their_answers(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    good, bad, later = publish("good"), publish("bad"), publish("later")
    pod.write(1, [good], good=good["name"])
    await pod.until(lambda s: s.ready)
    stand_in.nans.add(bad["name"])
    pod.write(2, [good, bad], good=good["name"])
    await pod.until(lambda _: pod.phases().get(bad["name"]) == "Failed")
    assert bad["name"] not in stand_in.loras
    assert (await ask(pod, "good"))[1]["choices"][0]["text"] == "hello"
    pod.write(3, [good, later], good=good["name"])
    await pod.until(lambda _: pod.phases().get(later["name"]) == "Ready")


async def test_a_load_that_fails_for_a_passing_reason_is_tried_again(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    entry = publish("a")
    stand_in.refuse_loads[entry["name"]] = (500, "CUDA out of memory. Tried to allocate 20.00 MiB")
    pod.write(1, [entry], x=entry["name"])
    state = await pod.until(lambda s: any(v.reason == "LoadFailed" for v in s.versions))
    assert "CUDA out of memory" in state.versions[0].message
    stand_in.refuse_loads.clear()
    await pod.until(lambda s: s.ready and s.aliases[0].answers)


async def test_an_adapter_that_ends_the_engine_is_given_up_after_three_times(
    pod: Pod, publish: Publish, stand_in: StandInEngine
) -> None:
    good, deadly = publish("good"), publish("deadly")
    pod.write(1, [good], good=good["name"])
    await pod.until(lambda s: s.ready)
    stand_in.kills.add(deadly["name"])
    pod.write(2, [good, deadly], good=good["name"])
    await pod.until(lambda _: pod.phases().get(deadly["name"]) == "Failed")
    await pod.until(lambda s: s.ready and s.engine_id == "engine-1+++")
    assert (await ask(pod, "good"))[0] == 200


async def test_a_refused_version_that_could_not_be_removed_at_once_leaves_the_engine_later(
    pod: Pod, publish: Publish, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_TIDY_SECONDS", 0.1)
    entry = publish("no-op")
    stand_in.no_ops, stand_in.fail_removals = {entry["name"]}, True
    pod.write(1, [entry], x=entry["name"])
    await pod.until(lambda s: any(v.reason == "SilentNoOp" for v in s.versions))
    assert entry["name"] in stand_in.loras
    stand_in.fail_removals = False
    await pod.until(lambda _: entry["name"] not in stand_in.loras)
    assert pod.phases()[entry["name"]] == "Failed"
