"""A run that scores on a shared server: trainer, operator, agent and gateway together, only the engine stands in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.serving.observed import PodState
from finetune_trainer.contracts import Job, Result, read_job
from finetune_trainer.data.prepared import write_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.progress import ProgressServer
from finetune_trainer.stages import baseline, evaluate
from finetune_trainer.workspace import Workspace
from tests.engine_stand_in import StandInEngine
from tests.judge_stand_in import JudgeStandIn, Reply, in_turn, judge_stand_in, judges_by_words, texts_of
from tests.unit.server import builders
from tests.unit.server.test_candidates import candidate, run
from tests.unit.serving.conftest import tiny_weights
from tests.unit.serving.pod import Pod
from tests.unit.stages.test_scoring_on_server import server, simulation, to

BASE = "sha256:" + "b" * 64
ROWS = 60
SUMMARY = {
    "baseFingerprint": BASE,
    "holdoutDigest": BASE,
    "datasetDigest": BASE,
    "chatTemplateKwargs": {},
    "method": "LoRA",
    "lora": {"rank": 8, "alpha": 16},
}


class Engine(StandInEngine):
    """Answers chats: the base wrongly, every adapter rightly; logs the models that were asked for answers."""

    async def _answer(self, request: web.Request, body: dict[str, Any], model: str) -> web.StreamResponse:
        if "messages" not in body:
            return await super()._answer(request, body, model)
        right = model != self.base
        entry = {"token": "a", "logprob": -2.0 if right else -1.0}
        choice = {
            "message": {"content": json.dumps({"condition": "acne" if right else "none"})},
            "finish_reason": "stop",
            "logprobs": {"content": [entry]},
        }
        ids = [ord(letter) for letter in body["messages"][-1]["content"]]
        return web.json_response({"model": model, "choices": [choice], "prompt_token_ids": ids})


class Cluster:
    """One serving pod behind its gateway, the operator that steers it, and a run's volumes."""

    def __init__(self, folder: Path, pod: Pod, engine: Engine, url: str) -> None:
        self.folder, self.pod, self.engine, self.url = folder, pod, engine, url
        self.operator = builders.World({"baseModel": {"source": "pvc://models/small"}})
        self.operated: list[list[str]] = []

    @property
    def store(self) -> Path:
        """The claim `adapters`, as pods and stages mount it."""
        return self.folder / "sources" / "pvc" / "adapters"

    def job(self, stage: str, **changes: Any) -> tuple[Job, Workspace]:
        """The job of a stage as the operator writes it, and the workspace after prepare."""
        found = server()
        status = found.status.model_copy(update={"endpoint": f"{self.url}/v1"})
        told = found.model_copy(update={"status": status})
        world = to(simulation(told, scheduling=None, **changes), stage)
        path = self.folder / f"{stage}.json"
        path.write_text(world.others["ConfigMap", world.running()]["data"]["job.json"])
        job, workspace = read_job(path), Workspace(self.folder / "workspace")
        workspace.dataset_dir.mkdir(parents=True, exist_ok=True)
        workspace.dataset_train.write_bytes(b"")
        question = {"messages": [{"role": "user", "content": "q"}], "promptIds": [ord("q")]}
        rows = [{"id": f"r{n}", "reference": '{"condition": "acne"}', **question} for n in range(ROWS)]
        workspace.holdout.write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_prepared(workspace, job, SUMMARY)
        return job, workspace

    def train(self, workspace: Workspace) -> None:
        """What the train stage leaves."""
        workspace.adapter_dir.mkdir(parents=True)
        config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
        (workspace.adapter_dir / "adapter_config.json").write_text(json.dumps(config))
        (workspace.adapter_dir / "adapter_model.safetensors").write_bytes(tiny_weights("run", 8))

    async def operate(self, job: Job) -> None:
        """Reconcile the server as events would; the digest is what the scorer's progress tells."""
        assert job.engine is not None
        assert job.engine.server is not None
        source = job.engine.server.source
        manifest = self.store / source.removeprefix("pvc://adapters/") / "manifest.json"
        while True:
            self.reconcile(*_asks(source, manifest))
            await asyncio.sleep(0.05)

    def reconcile(self, *asks: FineTuneJob) -> None:
        """One look at the server, whose pods then read its manifest."""
        state = self.pod.agent.state().model_dump(mode="json", by_alias=True)
        one = builders.pod(name="pod-1", ready=state["ready"])
        self.operator.more = {"runs": asks}
        self.operator.pods = (PodState(one.name, one.uid, one.ready, False, one.pod, state, builders.NOW),)
        self.operator.reconcile()
        text = self.operator.children["ConfigMap"]["data"]["manifest.json"]
        self.operated.append([entry["version"] for entry in json.loads(text)["candidates"]])
        fresh = self.folder / "fresh.json"
        fresh.write_text(text)
        fresh.replace(self.folder / "manifest.json")


def _asks(source: str, manifest: Path) -> tuple[FineTuneJob, ...]:
    """The run whose candidate is there."""
    try:
        digest = sha256(manifest.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ()
    version = f"candidate.run--{digest[:12]}"
    return (run(source=source, digest=f"sha256:{digest}", version=version),)


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    monkeypatch.setenv("FT_DESTINATION_ROOT", str(tmp_path / "sources" / "pvc"))
    monkeypatch.setenv("FT_PROGRESS_PORT", "0")
    engine = Engine(tmp_path / "e.sock", base="small")
    await engine.start()
    connector = aiohttp.UnixConnector(str(engine.path), force_close=True)
    async with aiohttp.ClientSession("http://engine", connector=connector) as session:
        pod = Pod(tmp_path, session)
        working = asyncio.create_task(pod.agent.run())
        gateway = TestServer(pod.gateway.app())
        await gateway.start_server()
        found = Cluster(tmp_path, pod, engine, str(gateway.make_url("")).rstrip("/"))
        found.store.mkdir(parents=True)
        yield found
        await gateway.close()
        working.cancel()
    await engine.stop()


async def scored(cluster: Cluster) -> tuple[Result, Result]:
    """The results of baseline and evaluate, with the operator at work beside them."""
    job, workspace = cluster.job("baseline")
    operating = asyncio.create_task(cluster.operate(job))
    before = await asyncio.to_thread(baseline.run, job, workspace)
    cluster.train(workspace)
    job, workspace = cluster.job("evaluate")
    after = await asyncio.to_thread(evaluate.run, job, workspace)
    operating.cancel()
    return before, after


async def test_a_run_is_scored_by_a_server_that_keeps_nothing_of_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []
    watching = evaluate.judging_progress

    def watched(job: Job, server: ProgressServer, *more: Any) -> Any:
        told.append(server.progress.candidate)
        return watching(job, server, *more)

    monkeypatch.setattr(evaluate, "judging_progress", watched)
    before, after = await scored(cluster)
    assert told == [None], "no candidate is asked for while a judge works"
    assert (before.summary["score"], after.summary["tuned"]["score"]) == (0.0, 1.0)
    assert after.summary["verdict"] == "Promote"
    # What the engine still holds depends on how far the operator's loop has come by now.
    assert [] in cluster.operated
    (loaded,) = {tuple(names) for names in cluster.operated if names}
    assert [name.startswith("candidate.run--") for name in loaded] == [True]
    assert not list(cluster.store.glob("_candidates/*")), "the copy in the store is gone with the scorer"
    for _ in range(3):
        cluster.reconcile()
        await cluster.pod.until(
            lambda s: s.applied_generation == cluster.operator.status["manifestGeneration"]
        )
    await cluster.pod.until(lambda s: s.versions == ())
    assert cluster.engine.loras == {}


async def test_an_adapter_that_the_server_refuses_ends_the_run_with_its_reason(cluster: Cluster) -> None:
    cluster.engine.refuse_load = (500, {"error": {"message": "LoRA rank 8 is greater than max_lora_rank 4."}})
    with pytest.raises(UserError, match="RankTooLarge"):
        await scored(cluster)
    assert not list(cluster.store.glob("_candidates/*"))


async def test_a_server_that_runs_otherwise_since_is_asked_for_the_base_again(cluster: Cluster) -> None:
    job, workspace = cluster.job("baseline")
    operating = asyncio.create_task(cluster.operate(job))
    await asyncio.to_thread(baseline.run, job, workspace)
    cluster.train(workspace)
    job, workspace = cluster.job("evaluate")
    assert job.engine is not None
    assert job.engine.server is not None
    upgraded = job.engine.server.model_copy(update={"template": "sha256:" + "e" * 64})
    job = job.model_copy(update={"engine": job.engine.model_copy(update={"server": upgraded})})
    asked = cluster.engine.seen.count("small")
    result = await asyncio.to_thread(evaluate.run, job, workspace)
    operating.cancel()
    assert result.summary["verdict"] == "Promote"
    assert cluster.engine.seen.count("small") >= asked + ROWS


async def judged_with_the_base(cluster: Cluster, judge: JudgeStandIn) -> Result:
    """The result of an evaluate stage that asks the base again and has both models judged."""
    prices = {"pricePerMillionInputTokens": "1", "pricePerMillionOutputTokens": "10"}
    style = {"name": "style", "type": "JudgeCriteria", "criteria": ["It says acne"]}
    evaluation = {
        "graders": [{"name": "fields", "type": "FieldMatch", "fields": ["condition"]}, style],
        "primary": "fields",
        "judge": {"url": judge.url, "model": "judge", **prices},
    }
    job, workspace = cluster.job("evaluate", evaluation=evaluation)
    operating = asyncio.create_task(cluster.operate(job))
    cluster.train(workspace)
    result = await asyncio.to_thread(evaluate.run, job, workspace)
    operating.cancel()
    return result


async def test_a_judge_that_is_away_when_the_base_is_asked_again_does_not_end_a_run_that_has_trained(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.scoring.endpoint.TRIES", 1)
    monkeypatch.setattr("finetune_trainer.judging.patience.TRIES", 0)
    monkeypatch.setattr("finetune_trainer.judging.patience._AWAY_SECONDS", 0)
    async with judge_stand_in(in_turn(Reply(status=503))) as judge:
        result = await judged_with_the_base(cluster, judge)
    assert (result.outcome, result.summary["graders"]["style"]["tuned"]) == ("Succeeded", None)
    assert result.summary["tuned"]["score"] == 1.0


async def test_what_judging_a_base_costs_that_is_asked_again_counts_too(cluster: Cluster) -> None:
    async with judge_stand_in(judges_by_words) as judge:
        result = await judged_with_the_base(cluster, judge)
    told = result.summary["judge"]
    assert {"none", "acne"} <= {json.loads(texts_of(body)["answer"])["condition"] for body in judge.bodies}
    assert told["requests"] == len(judge.bodies)
    assert told["cost"] == pytest.approx(len(judge.bodies) * 0.0002)


def test_the_version_that_the_scorer_asks_for_is_the_one_that_the_operator_lists() -> None:
    assert candidate() == "candidate.run--" + "d" * 12
