"""A tiny Llama with rows that it can learn, a job that trains it, and a stand-in engine for faults."""

import asyncio
import json
import math
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from aiohttp import web

from finetune_trainer.contracts import Job
from finetune_trainer.data.prepared import write_prepared
from finetune_trainer.files import write_lines
from finetune_trainer.trained_rows import as_batch, writing_rows
from finetune_trainer.workspace import Workspace

DIGEST = "sha256:" + "0" * 64
EVALUATION = {
    "dataset": {"source": "configmap://d/holdout.jsonl"},
    "graders": [
        {"name": "exact", "type": "ExactMatch"},
        {"name": "json", "type": "JsonSchema", "schema": '{"type": "object"}'},
    ],
    "primary": "exact",
    "maxTokens": 8,
}


@dataclass(frozen=True)
class Run:
    """A job file and the workspace that belongs to it."""

    job_path: Path
    job: Job
    workspace: Workspace


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Build a run of a stage whose prepare is done; rows and all that is asked as given."""
    monkeypatch.setenv("FT_SOURCES_ROOT", str(tmp_path / "sources"))
    monkeypatch.setenv("FT_DESTINATION_ROOT", str(tmp_path / "destination"))
    (tmp_path / "destination" / "adapters").mkdir(parents=True)
    monkeypatch.setenv("FT_TERMINATION_LOG", str(tmp_path / "termination"))
    monkeypatch.setenv("FT_PROGRESS_PORT", "0")

    def make(
        stage: str,
        name: str = "run",
        method: str = "LoRA",
        rows: Any = (),
        holdout: Any = (),
        evaluation: Any = EVALUATION,
        rivals: Mapping[str, Any] = MappingProxyType({}),
        suites: Mapping[str, Any] = MappingProxyType({}),
        suite_margin: str | None = None,
        **summary: Any,
    ) -> Run:
        document = _job(stage, method, with_questions(evaluation, list(rivals), list(suites), suite_margin))
        root = tmp_path / name
        root.mkdir()
        (root / "job.json").write_text(json.dumps(document))
        job, workspace = Job.model_validate(document), Workspace(root / "workspace")
        workspace.dataset_dir.mkdir(parents=True)
        with writing_rows(workspace.dataset_train) as write:
            write(as_batch(rows))
        workspace.holdout.write_text("".join(json.dumps(row) + "\n" for row in holdout))
        for folder, files in ((workspace.rivals_dir, rivals), (workspace.suites_dir, suites)):
            for file, asked in files.items():
                write_lines(folder / f"{file}.jsonl", (json.dumps(row) + "\n" for row in asked))
        write_prepared(workspace, job, _summary(len(rows), method) | summary)
        return Run(root / "job.json", job, workspace)

    return make


@pytest.fixture(scope="session")
def learnable_rows() -> list[dict[str, list[int]]]:
    """37 rows of unequal length (so that the last batch of 8 is small), trained on their last tokens."""
    chance = random.Random(1)
    rows = []
    for _ in range(37):
        length, trained, start = chance.randint(8, 40), chance.randint(2, 6), chance.randint(0, 200)
        ids = [(start + position) % 255 for position in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * (length - trained) + ids[-trained:]})
    return rows


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama with 2 layers of width 64 and 256 tokens."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=256, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {f"w{number}": number for number in range(255)} | {"<eos>": 255}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(folder)
    return folder


@pytest.fixture
def train_run(make_run: Any, tiny_model: Path, learnable_rows: Any) -> Callable[..., Any]:
    """A train run whose base is mounted."""
    shutil.copytree(tiny_model, Path(os.environ["FT_SOURCES_ROOT"]) / "pvc" / "base" / "model")

    def make(name: str, method: str = "LoRA", repeat: int = 1) -> Any:
        return make_run("train", name, method, learnable_rows * repeat)

    return make


@pytest.fixture
def run_folder(tmp_path: Path, tiny_model: Path, learnable_rows: Any) -> Path:
    """A folder with model and rows, for gangs.run_part."""
    shutil.copytree(tiny_model, tmp_path / "model")
    with writing_rows(tmp_path / "train.arrow") as write:
        write(as_batch(learnable_rows))
    return tmp_path


@dataclass
class StandIn:
    """A stand-in for the engine that can fail: `answer` decides what a chat request gets.

    It tokenises the last message alone, a token for a character. `silence` keeps it from answering chat
    requests until it is set; `most` is how many tokens it was asked for at once.
    """

    socket: Path
    answer: Callable[[dict[str, Any]], tuple[int, Any]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    loaded: list[dict[str, Any]] = field(default_factory=list)
    tokenized: list[dict[str, Any]] = field(default_factory=list)
    completed: list[dict[str, Any]] = field(default_factory=list)
    most: int = 0
    unhealthy: int = 0
    silence: asyncio.Event | None = None


@pytest.fixture(scope="session")
def chat_answer() -> Callable[..., tuple[int, Any]]:
    """Makes a successful answer in the engine's shape."""
    return _chat_answer


def _chat_answer(text: str, logprob: float = -0.5, finish: str = "stop") -> tuple[int, Any]:
    choice = {
        "message": {"content": text},
        "finish_reason": finish,
        "logprobs": {"content": [{"token": text, "logprob": logprob}]},
    }
    return 200, {"choices": [choice], "usage": {"completion_tokens": 1}}


@pytest.fixture
async def stand_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Awaitable[StandIn]]]:
    """Start a stand-in engine on a unix socket of its own."""
    runners: list[web.AppRunner] = []

    async def start(answer: Callable[[dict[str, Any]], tuple[int, Any]]) -> StandIn:
        server = StandIn(tmp_path / "engine.sock", answer)
        monkeypatch.setenv("FT_ENGINE_SOCKET", str(server.socket))
        runner = web.AppRunner(_application(server))
        await runner.setup()
        runners.append(runner)
        await web.UnixSite(runner, str(server.socket)).start()
        return server

    yield start
    await asyncio.gather(*(runner.cleanup() for runner in runners))


def _application(server: StandIn) -> web.Application:
    async def health(_: web.Request) -> web.Response:
        server.unhealthy -= 1
        return web.Response(status=503 if server.unhealthy >= 0 else 200)

    async def models(_: web.Request) -> web.Response:
        served = [{"id": "base", "parent": None}, *({"id": "tuned", "parent": "base"} for _ in server.loaded)]
        return web.json_response({"data": served})

    async def load(request: web.Request) -> web.Response:
        server.loaded.append(await request.json())
        return web.Response(text="Success")

    async def chat(request: web.Request) -> web.Response:
        server.requests.append(await request.json())
        if server.silence:
            await server.silence.wait()
        status, document = server.answer(server.requests[-1])
        return web.json_response(document, status=status)

    async def tokenize(request: web.Request) -> web.Response:
        server.tokenized.append(await request.json())
        asked = server.tokenized[-1]
        content = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
        return web.json_response({"tokens": [ord(letter) for letter in content]})

    under_way = 0

    async def complete(request: web.Request) -> web.Response:
        """Tokens are letters, of which vowels are likely and the letter x ends in a refusal."""
        nonlocal under_way
        body = await request.json()
        server.completed.append(body)
        under_way += 1
        server.most = max(server.most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        [token] = body["allowed_token_ids"]
        if chr(token) == "x":
            return web.json_response({"error": {"message": "the prompt is too long"}}, status=400)
        value = math.log(0.5 if chr(token) in "aeiou" else 0.25)
        return web.json_response({"choices": [{"text": "", "logprobs": {"token_logprobs": [value]}}]})

    async def detokenize(request: web.Request) -> web.Response:
        ids = (await request.json())["tokens"]
        return web.json_response({"prompt": "".join(map(chr, ids))})

    application = web.Application()
    application.router.add_post("/tokenize", tokenize)
    application.router.add_post("/detokenize", detokenize)
    application.router.add_post("/v1/completions", complete)
    application.router.add_get("/health", health)
    application.router.add_get("/v1/models", models)
    application.router.add_post("/v1/load_lora_adapter", load)
    application.router.add_post("/v1/chat/completions", chat)
    return application


def with_questions(
    evaluation: Any, rivals: list[str], suites: list[str], suite_margin: str | None = None
) -> Any:
    """The evaluation with rivals and suites of these names."""
    asked = {
        "dataset": {"source": "configmap://d/suite.jsonl"},
        "grader": {"name": "word", "type": "ExactMatch", "margin": suite_margin},
    }
    return evaluation | {
        "rivals": [{"name": name, "fewShot": 1} for name in rivals],
        "regression": {"suites": [{"name": name, **asked} for name in suites]} if suites else None,
    }


def _job(stage: str, method: str, evaluation: Any) -> dict[str, Any]:
    spec = {
        "baseModel": {"source": "pvc://base/model"},
        "method": method,
        "dataset": {"source": "configmap://d/train.jsonl"},
        "evaluation": evaluation,
        "output": {"destination": "pvc://adapters/x"},
        "resources": {"nodes": 1, "gpusPerNode": 0, "processesPerNode": 1},
    }
    return {
        "schemaVersion": 1, "namespace": "demo", "name": "x", "uid": "u", "stage": stage, "attempt": 1,
        "specDigest": DIGEST, "inputDigest": "sha256:" + "1" * 64, "spec": spec,
    }  # fmt: skip


LORA = {
    "rank": 8, "alpha": 16, "rankStabilized": False,
    "targetModules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}  # fmt: skip


def _summary(rows: int, method: str) -> dict[str, Any]:
    training = {"epochs": 2, "learningRate": 1e-2 if method == "LoRA" else 1e-3, "effectiveBatchSize": 8}
    return {
        "rows": rows,
        "baseFingerprint": DIGEST,
        "longestRow": 64,
        "holdoutDigest": DIGEST,
        "training": {**training, "maxLength": 64, "seed": 17, "steps": -(-rows // 8) * 2},
        "method": method,
        "lora": None if method == "Full" else LORA,
        "chatTemplateKwargs": {},
        "checkpointBytes": 1_000_000,
    }
