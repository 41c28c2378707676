"""The agent against a stand-in engine: bring-up, roll-over, refusals, engine restarts, clean-up."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_serving.agent import agent, steps
from finetune_serving.agent.converge import Decision, World, converge
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.gateway import ledger
from tests.unit.serving.pod import Pod, Publish


async def test_the_gateway_learns_what_a_versions_prompts_pass_to_the_chat_template(
    pod: Pod, publish: Publish
) -> None:
    entry = publish("a", manifest={"chatTemplateKwargs": {"enable_thinking": False}})
    pod.write(1, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.ready)
    assert pod.book.template_kwargs == {entry["name"]: {"enable_thinking": False}, "base": {}}


async def test_a_routed_version_is_brought_up_and_the_pod_becomes_ready(
    pod: Pod, stand_in: Any, publish: Publish
) -> None:
    entry = publish("a")
    assert not pod.agent.state().ready
    pod.write(1, [entry], reviews=entry["name"])
    state = await pod.until(lambda s: s.ready)
    assert (state.applied_generation, state.message) == (1, "")
    assert state.versions[0].load_seconds is not None
    assert stand_in.loras[entry["name"]] == str(pod.folder / "adapters" / entry["digest"][7:])
    assert pod.book.can_answer(entry["name"])
    assert pod.book.created[entry["name"]] > 0


async def test_a_server_without_adapters_is_ready_with_its_base(pod: Pod) -> None:
    pod.write(1, [])
    await pod.until(lambda s: s.ready)
    assert pod.book.can_answer("base")


async def test_a_roll_over_drains_before_it_removes(pod: Pod, stand_in: Any, publish: Publish) -> None:
    old, new = publish("a"), publish("b")
    pod.write(1, [old], reviews=old["name"])
    await pod.until(lambda s: s.ready)
    with pod.ledger.call(asyncio.timeout(None)) as call:
        pod.ledger.enter(call, "reviews", old["name"])
        pod.write(2, [new], reviews=new["name"])
        await pod.until(lambda s: s.applied_generation == 2)
        await pod.until(lambda s: pod.phases()[old["name"]] == "Draining")
        await asyncio.sleep(0.6)  # two turns of the watch: time enough to do the wrong thing
        assert stand_in.removed == []
    await pod.until(lambda s: [v.name for v in s.versions] == [new["name"]])
    assert stand_in.removed == [old["name"]]
    assert not (pod.folder / "adapters" / old["digest"][7:]).exists()
    assert pod.agent.state().ready


async def test_what_is_due_is_decided_in_one_place(
    pod: Pod, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: set[asyncio.Task[Any] | None] = set()

    def watched(world: World) -> Decision:
        tasks.add(asyncio.current_task())
        return converge(world)

    monkeypatch.setattr(agent, "converge", watched)
    old, new = publish("a"), publish("b")
    pod.write(1, [old], reviews=old["name"])
    await pod.until(lambda s: s.ready)
    pod.write(2, [new], reviews=new["name"])
    await pod.until(lambda s: [v.name for v in s.versions] == [new["name"]])
    assert len(tasks) == 1


async def test_the_counts_of_a_version_that_left_go_although_nobody_scrapes(
    pod: Pod, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEEP_SECONDS", 0.0)
    old, new = publish("a"), publish("b")
    pod.write(1, [old], reviews=old["name"])
    await pod.until(lambda s: s.ready)
    pod.write(2, [new], reviews=new["name"])
    await pod.until(lambda _: ("reviews", new["name"]) in pod.ledger.accounts)
    await pod.until(lambda _: ("reviews", old["name"]) not in pod.ledger.accounts)


async def test_two_versions_with_one_digest_share_their_files(pod: Pod, publish: Publish) -> None:
    entry = publish("a")
    twin = entry | {"name": "twin--1"}
    pod.write(1, [entry, twin], reviews=entry["name"], twin="twin--1")
    await pod.until(lambda s: s.ready)
    pod.write(2, [twin], twin="twin--1")
    await pod.until(lambda s: [v.name for v in s.versions] == ["twin--1"])
    assert (pod.folder / "adapters" / entry["digest"][7:]).exists()


async def test_a_broken_version_never_takes_over(pod: Pod, publish: Publish) -> None:
    good, bad = publish("a"), publish("b", manifest={"promoted": False})
    pod.write(1, [good], reviews=good["name"])
    await pod.until(lambda s: s.ready)
    pod.write(2, [good, bad], reviews=bad["name"])
    state = await pod.until(lambda s: any(v.phase == "Failed" for v in s.versions))
    assert (state.generation, state.ready) == (2, True)
    assert pod.book.table.aliases["reviews"].targets[0].version == good["name"]
    alias = state.aliases[0]
    assert (alias.answers, alias.targets[0].version, alias.reason) == (True, good["name"], "Unpromoted")


async def test_an_adapter_without_effect_is_a_silent_no_op(pod: Pod, stand_in: Any, publish: Publish) -> None:
    entry = publish("a")
    stand_in.no_ops.add(entry["name"])
    pod.write(1, [entry])
    state = await pod.until(lambda s: any(v.phase == "Failed" for v in s.versions))
    assert state.versions[0].reason == "SilentNoOp"
    assert entry["name"] in stand_in.removed


async def test_a_candidate_is_loaded_and_no_pod_waits_for_it(
    pod: Pod, stand_in: Any, publish: Publish
) -> None:
    routed, tried = publish("a"), publish("b", manifest={"promoted": False})
    entry = tried | {"allowUnpromoted": True}
    pod.write(1, [routed, entry], candidates=(tried["name"],), reviews=routed["name"])
    await pod.until(lambda s: s.ready and pod.phases().get(tried["name"]) == "Ready")
    assert dict(pod.book.table.candidates) == {tried["name"]: None}
    assert pod.agent.state().candidates == (tried["name"],)
    assert [alias.alias for alias in pod.agent.state().aliases] == ["reviews"]
    pod.write(2, [routed], reviews=routed["name"])
    await pod.until(lambda s: [v.name for v in s.versions] == [routed["name"]])
    assert stand_in.removed == [tried["name"]]
    assert pod.book.table.candidates == {}


async def test_the_answers_of_a_candidate_take_as_long_as_they_take(pod: Pod, publish: Publish) -> None:
    entry = publish("a")
    pod.write(1, [entry], drain_seconds=0, candidates=(entry["name"],))
    await pod.until(lambda s: pod.phases().get(entry["name"]) == "Ready")
    with pod.ledger.call(asyncio.timeout(None)) as call:
        pod.ledger.enter(call, entry["name"], entry["name"])
        await asyncio.sleep(0.6)  # two turns of the watch: time enough to do the wrong thing
        assert not call.deadline.expired()


async def test_a_candidate_that_cannot_be_had_keeps_the_reason_for_its_run(
    pod: Pod, publish: Publish
) -> None:
    routed, tried = publish("a"), publish("b", manifest={"baseModel": {"fingerprint": "sha256:" + "f" * 64}})
    pod.write(1, [routed, tried], candidates=(tried["name"],), reviews=routed["name"])
    state = await pod.until(lambda s: s.ready and any(v.phase == "Failed" for v in s.versions))
    assert state.ready
    assert pod.book.refused[tried["name"]].startswith("BaseMismatch: ")


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (500, "LoRA rank 64 is greater than max_lora_rank 16.", "RankTooLarge"),
        (500, "vLLM does not yet support DoRA. Adapter bias is not supported.", "UnsupportedAdapter"),
        (500, "shapes cannot be multiplied", "LoadFailed"),
        (404, "Loading lora x failed: No adapter found", "LoadFailed"),
    ],
)
async def test_the_engines_refusals_get_a_reason(
    pod: Pod, stand_in: Any, publish: Publish, status: int, message: str, reason: str
) -> None:
    stand_in.refuse_load = (status, {"error": {"message": message, "type": "x", "code": status}})
    pod.write(1, [publish("a")])
    state = await pod.until(lambda s: any(v.phase == "Failed" for v in s.versions))
    assert state.versions[0].reason == reason
    assert message in state.versions[0].message
    assert stand_in.removed == [state.versions[0].name]


async def test_a_restarted_engine_gets_everything_again_before_the_pod_is_ready(
    pod: Pod, stand_in: Any, publish: Publish
) -> None:
    entry = publish("a")
    pod.write(1, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.ready)
    await stand_in.stop()
    await pod.until(
        lambda s: s.message == "waiting for the engine" and not pod.book.can_answer(entry["name"])
    )
    await stand_in.restart()
    await pod.until(lambda s: s.ready and s.engine_id == "engine-1+")
    assert entry["name"] in stand_in.loras


async def test_adapters_are_fetched_while_the_engine_loads_its_base(
    pod: Pod, stand_in: Any, publish: Publish
) -> None:
    await stand_in.stop()
    entry = publish("a")
    pod.write(1, [entry], reviews=entry["name"])
    state = await pod.until(lambda s: [v.phase for v in s.versions] == ["Loading"])
    assert not state.ready
    assert state.message.startswith("waiting for the engine")
    assert (pod.folder / "adapters" / entry["digest"][7:] / "adapter_config.json").is_file()
    await stand_in.restart()
    await pod.until(lambda s: s.ready and s.aliases[0].answers)


async def test_an_engine_that_forgot_a_version_gets_it_back_after_the_first_complaint(
    pod: Pod, stand_in: Any, publish: Publish
) -> None:
    entry = publish("a")
    pod.write(1, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.ready)
    stand_in.loras.clear()
    pod.book.trouble.set()
    await pod.until(lambda _: entry["name"] in stand_in.loras)
    await pod.until(lambda s: s.ready)


async def test_leftovers_of_an_earlier_process_are_removed(pod: Pod, stand_in: Any, publish: Publish) -> None:
    stand_in.loras["ghost--1"] = "/adapters/ghost"
    (pod.folder / "adapters" / "0123456789ab").mkdir(parents=True)
    entry = publish("a")
    pod.write(1, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.ready)
    assert stand_in.removed == ["ghost--1"]
    assert [path.name for path in (pod.folder / "adapters").iterdir()] == [entry["digest"][7:]]


async def test_a_volume_that_cannot_be_tidied_keeps_the_agent_at_work(
    pod: Pod, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(steps, "_remove_other_folders", fail)
    entry = publish("a")
    pod.write(1, [entry], reviews=entry["name"])
    await pod.until(lambda s: s.ready)


def test_a_manifest_that_could_not_be_read_once_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "broken")

    path = tmp_path / "manifest.json"
    path.write_text('{"schemaVersion": 1, "generation": 3, "base": {"name": "base"}}')
    file = ManifestFile(path)
    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        file.refresh()
    assert "broken" in file.error
    file.refresh()
    assert (file.error, file.current and file.current.generation) == ("", 3)


async def test_a_broken_manifest_changes_nothing(pod: Pod) -> None:
    pod.write(1, [])
    await pod.until(lambda s: s.ready)
    (pod.folder / "manifest.json").write_text("{")
    state = await pod.until(lambda s: s.message != "")
    assert state.ready
    assert "previous one stays" in state.message


async def test_another_base_than_the_server_asks_for_is_never_ready(pod: Pod) -> None:
    pod.write(1, [])
    document = json.loads((pod.folder / "manifest.json").read_text())
    document["base"]["fingerprint"] = "sha256:" + "f" * 64
    (pod.folder / "manifest.json").write_text(json.dumps(document))
    state = await pod.until(lambda s: "asks for" in s.message)
    assert not state.ready
