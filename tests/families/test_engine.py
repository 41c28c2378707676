"""vLLM on the CPU loads each family's base with the adapter that was trained, and sees training's prompts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.families.conversations import CONVERSATIONS
from tests.families.families import Family, with_engine
from tests.families.stages import RANK, Prepared, Record, Refused, Runs, Trained, works
from tests.families.tiny import load

pytestmark = [pytest.mark.engine, pytest.mark.families]
Answers = dict[str, dict[str, Any]]
_TEXT = list(range(2, 60))
_SHARE = 0.02  # of the adapter's effect: less than any module's part


@pytest.fixture(scope="session")
def engine(runs: Runs) -> Answers:
    """What vLLM answers with each adapter, by the name of its family; one process serves all in turn."""
    trained = [(family, runs.run(family, "LoRA")) for family in with_engine()]
    tasks = [_task(family, run, runs) for family, run in trained if isinstance(run, Trained)]
    answers: Answers = {}
    while left := [task for task in tasks if task["family"] not in answers]:
        answers |= _ask(left)
        answers.setdefault(left[0]["family"], {"error": "the engine's process died"})
    return answers


def _ask(tasks: list[dict[str, Any]]) -> Answers:
    """The answers that a process gives before it ends, or dies."""
    command = [sys.executable, "-m", "tests.families.engine"]
    done = subprocess.run(command, input=json.dumps(tasks), stdout=subprocess.PIPE, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"family"')]
    return {answer["family"]: answer for answer in found}


def _task(family: Family, run: Trained, runs: Runs) -> dict[str, Any]:
    prepared = {kind: runs.prepared(family, kind) for kind in CONVERSATIONS}
    return {
        "family": family.name,
        "base": str(run.base),
        "adapter": str(_strong(run)),
        "text": _TEXT,
        "rank": RANK,
        "multimodal": family.vision is not None,
        "conversations": {
            kind: _request(kind, ready) for kind, ready in prepared.items() if isinstance(ready, Prepared)
        },
    }


def _request(kind: str, ready: Prepared) -> dict[str, Any]:
    """The conversation before its last answer as the OpenAI API takes it: arguments of calls are text."""
    row = CONVERSATIONS[kind]
    return {
        "messages": json.loads(json.dumps(row["messages"][:-1]), object_hook=_with_text_arguments),
        "tools": row.get("tools", []),
        "options": ready.kwargs,
    }


def _with_text_arguments(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "arguments": json.dumps(value["arguments"])} if "arguments" in value else value


def test_the_engine_answers_with_the_adapter_and_sees_the_prompts_of_training(
    family: Family, engine: Answers, runs: Runs, record_property: Record
) -> None:
    run = runs.run(family, "LoRA")
    if isinstance(run, Refused):
        pytest.skip("refused in prepare")
    answer = engine[family.name]
    outcome = Refused(answer["error"]) if "error" in answer else answer
    if not works(outcome, family.no_engine, record_property):
        return
    base, tuned = (torch.tensor(logprobs) for logprobs in answer["logprobs"])
    effect = (tuned - base).abs().mean()
    assert (tuned - _expected(family, run)).abs().mean() < _SHARE * effect
    for kind, prompt in answer["prompts"].items():
        ready = runs.prepared(family, kind)
        assert isinstance(ready, Prepared)
        assert prompt == _last_prompt(ready), kind


def _strong(run: Trained) -> Path:
    """The adapter as two steps left it, but with the effect of many: every module of it changes the answers."""
    folder = run.output.with_name("strong")
    shutil.copytree(run.output, folder, dirs_exist_ok=True)
    weights = load_file(run.output / "adapter_model.safetensors")
    torch.manual_seed(0)
    for name, weight in weights.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _expected(family: Family, run: Trained) -> torch.Tensor:
    """The log-probabilities of the text by transformers with that adapter."""
    model = PeftModel.from_pretrained(load(family, run.base), _strong(run)).eval()
    text = torch.tensor([_TEXT])
    with torch.no_grad():
        logprobs = model(input_ids=text).logits[0, :-1].float().log_softmax(-1)
    return logprobs.gather(1, text[0, 1:, None])[:, 0]


def _last_prompt(ready: Prepared) -> list[int]:
    """The tokens before the last trained answer."""
    line: dict[str, list[int]] = ready.rows[-1]
    labels = line["labels"]
    first = max(
        place for place, label in enumerate(labels) if label >= 0 and (not place or labels[place - 1] < 0)
    )
    return line["input_ids"][:first]
