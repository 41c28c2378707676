"""`python -m tests.gate.example_run FOLDER BASE`: a run whose documents docs/report.md has pictures of.

BASE is a folder with SmolLM2-135M-Instruct. The stages prepare, baseline, evaluate and publish run as in their
pods, on examples/drug-reviews with a better prompt and a suite. An engine stands in that makes its answers of
the references, each model with faults of its own kind; nothing is trained. All figures are the stages'.
FOLDER gets prepared.html, evaluated.html and card.html.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from html import escape
from pathlib import Path
from threading import Thread
from typing import Any

import yaml
from aiohttp import web
from markdown_it import MarkdownIt
from tokenizers import Tokenizer

from finetune_trainer.__main__ import main as trainer
from finetune_trainer.contracts import AcceleratorSpec, Job, PublishSpec
from finetune_trainer.local.manifest import job_of
from finetune_trainer.workspace import Workspace, destination_dir

EXAMPLES = Path(__file__).parents[2] / "examples"
CLAIM = "base-models"
MODEL = "smollm2-135m-instruct"
GPU = AcceleratorSpec(name="h200", memory_gib=139, peak_tflops=989, price_per_hour=Decimal(4), currency="USD")
RIVAL = {"name": "four-examples", "fewShot": 4}
SAVINGS = {"callsPerMonth": 100_000, "removedPromptTokens": 300, "pricePerMillionTokens": "0.5"}
SUITE = {
    "name": "general",
    "dataset": {"source": "configmap://general-suite/questions.jsonl"},
    "grader": {"name": "answer", "type": "Contains", "margin": "0.1"},
}
STYLE = """body { max-width: 850px; margin: 20px auto; font: 15px/1.5 sans-serif } h1, h2 { border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: 12px 0 } td, th { border: 1px solid #ddd; padding: 4px 10px }
code, pre { background: #f3f3f3; font-size: 12px; border-radius: 4px } pre { padding: 10px; white-space: pre-wrap }"""
ECHO = '{"condition": "the condition it was taken for", "sentiment": "positive, neutral or negative"}'
PROSE = "The review says that the medicine helped after some weeks and that " * 6

Asked = Mapping[str, Any]


def main(folder: Path, base: Path) -> None:
    """Run the stages and gather their pages."""
    _mount(folder, base)
    job, workspace = _job(), Workspace(folder / "workspace")
    _run(job, "prepare", folder)
    shutil.copyfile(workspace.report_html, folder / "prepared.html")
    engine = Engine(_questions(workspace), Tokenizer.from_file(str(base / "tokenizer.json")))
    with _serving(engine, folder / "engine.sock"):
        for stage in ("baseline", "evaluate"):
            _run(job, stage, folder)
    result = json.loads(next(workspace.results_dir.glob("evaluate-*.json")).read_bytes())
    verdict = result["summary"]["verdict"]
    _adapter(workspace.adapter_dir)
    _run(job, "publish", folder, PublishSpec(promoted=verdict == "Promote", verdict=verdict))
    published = destination_dir(job)
    shutil.copyfile(published / "report.html", folder / "evaluated.html")
    (folder / "card.html").write_text(page(published.joinpath("README.md").read_text()))


def page(card: str) -> str:
    """A model card as a page, with its metadata as it is written."""
    _, metadata, text = card.split("---\n", 2)
    body = MarkdownIt().enable("table").render(text)
    return f"<meta charset=utf-8><style>{STYLE}</style><pre>{escape(metadata)}</pre>{body}"


def _mount(folder: Path, base: Path) -> None:
    for name, path in {
        "drug-reviews": EXAMPLES / "drug-reviews" / "data",
        "general-suite": EXAMPLES / "general-suite",
    }.items():
        shutil.copytree(path, folder / "sources" / "configmap" / name)
    shutil.copytree(base, folder / "sources" / "pvc" / CLAIM / MODEL)
    (folder / "destination" / "adapters").mkdir(parents=True)
    os.environ |= {
        "FT_SOURCES_ROOT": str(folder / "sources"),
        "FT_DESTINATION_ROOT": str(folder / "destination"),
        "FT_TERMINATION_LOG": str(folder / "termination"),
        "FT_ENGINE_SOCKET": str(folder / "engine.sock"),
        "FT_PROGRESS_PORT": "0",
    }


def _job() -> Job:
    manifest = yaml.safe_load((EXAMPLES / "drug-reviews" / "finetunejob.yaml").read_text())
    manifest["metadata"]["namespace"] = "demo"
    spec = manifest["spec"]
    spec |= {"goal": "Format", "savings": SAVINGS, "budget": {"limit": "5", "currency": "USD"}}
    spec["resources"] = {"gpusPerNode": 1}
    spec["evaluation"] |= {"rivals": [RIVAL], "regression": {"suites": [SUITE]}}
    return job_of(manifest, "the example", accelerator=GPU)


def _run(job: Job, stage: str, folder: Path, publish: PublishSpec | None = None) -> None:
    path = folder / "job.json"
    path.write_text(job.model_copy(update={"stage": stage, "publish": publish}).to_json())
    if code := trainer([stage, "--job", str(path), "--workspace", str(folder / "workspace")]):
        sys.exit(f"{stage} ended with {code}")


@contextmanager
def _serving(engine: Engine, socket: Path) -> Iterator[None]:
    """In a thread: stages handle signals, so they run in the main one."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()
    runner = web.AppRunner(engine.application(), access_log=None)
    asyncio.run_coroutine_threadsafe(_listen(runner, socket), loop).result()
    yield
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)


async def _listen(runner: web.AppRunner, socket: Path) -> None:
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()


def _questions(workspace: Workspace) -> list[Asked]:
    paths = (workspace.holdout, *workspace.rivals_dir.iterdir(), *workspace.suites_dir.iterdir())
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def _adapter(folder: Path) -> None:
    """What stands where train leaves its adapter."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16, "lora_alpha": 32}')
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


class Engine:
    """Answers as an engine with a base and an adapter does; each answer is its row's reference, or a fault."""

    def __init__(self, questions: Sequence[Asked], tokenizer: Tokenizer) -> None:
        self._known = {_key(asked["messages"]): asked for asked in questions}
        self._tokenizer = tokenizer

    def application(self) -> web.Application:
        """The routes that the scorer asks."""
        found = web.Application()
        found.router.add_get("/health", self._healthy)
        found.router.add_get("/v1/models", self._models)
        found.router.add_post("/v1/load_lora_adapter", self._healthy)
        found.router.add_post("/tokenize", self._tokens)
        found.router.add_post("/v1/chat/completions", self._chat)
        return found

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="Success")

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "base", "parent": None}]})

    async def _tokens(self, request: web.Request) -> web.Response:
        asked = self._known[_key((await request.json())["messages"])]
        return web.json_response({"tokens": asked["promptIds"]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        tuned = body["model"] == "tuned"
        ids = self._tokenizer.encode(answer(self._known[_key(body["messages"])], tuned=tuned)).ids
        cut = len(ids) > body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        text = self._tokenizer.decode(ids)
        await asyncio.sleep(0.01 * len(ids))
        choice = {
            "message": {"content": text},
            "finish_reason": "length" if cut else "stop",
            "logprobs": {"content": [{"token": text, "logprob": -0.1 if tuned else -0.5}]},
        }
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": len(ids)}})


def answer(asked: Asked, *, tuned: bool) -> str:
    """What a model makes of a row: always the same, with faults as often as its kind of model has them."""
    reference, examples = str(asked["reference"]), len(asked["messages"]) > 1
    drawn = random.Random(f"{asked['id']} {tuned} {examples}")
    if not reference.startswith("{"):
        known = random.Random(asked["id"]).random() < 0.65
        forgotten = tuned and drawn.random() < 0.06
        return reference if known and not forgotten else "I do not know."
    faults = (
        reference,
        _changed(reference, sentiment="neutral"),
        _changed(reference, condition="Pain"),
        ECHO,
        PROSE,
    )
    weights = (56, 26, 18, 0, 0) if tuned else (58, 26, 6, 3, 7) if examples else (9, 8, 4, 52, 27)
    return drawn.choices(faults, weights)[0]


def _changed(reference: str, **fields: str) -> str:
    return json.dumps({**json.loads(reference), **fields})


def _key(messages: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([[message["role"], message["content"]] for message in messages])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
