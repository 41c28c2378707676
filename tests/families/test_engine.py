"""vLLM on the CPU loads what was trained of each family, computes what transformers does, sees training's prompts."""

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
_EQUAL = 0.001


@pytest.fixture(scope="session")
def engine(runs: Runs) -> Answers:
    """What vLLM answers with each adapter and each tuned model, by name; one process serves all in turn."""
    tasks = [task for family in with_engine() for task in _tasks(family, runs)]
    answers: Answers = {}
    while left := [task for task in tasks if task["name"] not in answers]:
        answers |= _ask(left)
        answers.setdefault(left[0]["name"], {"error": "the engine's process died"})
    return answers


def _ask(tasks: list[dict[str, Any]]) -> Answers:
    """The answers that a process gives before it ends, or dies."""
    command = [sys.executable, "-m", "tests.families.engine"]
    done = subprocess.run(command, input=json.dumps(tasks), stdout=subprocess.PIPE, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {answer["name"]: answer for answer in found}


def _tasks(family: Family, runs: Runs) -> list[dict[str, Any]]:
    """The base with its adapter, and where that cannot be served the model that Full tuned."""
    lora = runs.run(family, "LoRA")
    tasks = [] if isinstance(lora, Refused) else [_task(family, lora.base, _strong(lora), runs)]
    if family.no_adapter:
        full = runs.run(family, "Full")
        assert isinstance(full, Trained)
        tasks.append(_task(family, full.output, None, runs))
    return tasks


def _task(family: Family, model: Path, adapter: Path | None, runs: Runs) -> dict[str, Any]:
    prepared = {kind: runs.prepared(family, kind) for kind in CONVERSATIONS}
    return {
        "name": f"{family.name} {'LoRA' if adapter else 'Full'}",
        "model": str(model),
        "adapter": adapter and str(adapter),
        "type": family.engine_type,
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
    answer = engine[f"{family.name} LoRA"]
    outcome = Refused(answer["error"]) if "error" in answer else answer
    if not works(outcome, family.no_adapter, lambda *_: None):
        pytest.skip("this engine serves no adapter of it")
    base, tuned = (torch.tensor(logprobs) for logprobs in answer["logprobs"])
    expected = _logprobs(PeftModel.from_pretrained(load(family, run.base), _strong(run)).eval())
    apart = (tuned - expected).abs().mean()
    assert apart < family.apart
    assert (tuned - base).abs().mean() > 10 * family.apart  # less than the effect of any module
    _check_prompts(family, answer, runs)
    record_property("note", "adapter" + (f" ({apart:.2f} apart)" if apart > _EQUAL else ""))


def test_the_engine_answers_with_the_model_that_full_tuned(
    family: Family, engine: Answers, runs: Runs, record_property: Record
) -> None:
    if not family.no_adapter:
        pytest.skip("its adapter is served, or prepare refuses it")
    answer = engine[f"{family.name} Full"]
    assert "error" not in answer, answer
    run = runs.run(family, "Full")
    assert isinstance(run, Trained)
    (tuned,) = (torch.tensor(logprobs) for logprobs in answer["logprobs"])
    apart = (tuned - _logprobs(load(family, run.output))).abs().mean()
    assert apart < family.apart
    _check_prompts(family, answer, runs)
    record_property("note", "model of Full alone" + (f" ({apart:.2f} apart)" if apart > _EQUAL else ""))


def _check_prompts(family: Family, answer: dict[str, Any], runs: Runs) -> None:
    for kind, prompt in answer["prompts"].items():
        ready = runs.prepared(family, kind)
        assert isinstance(ready, Prepared)
        if isinstance(prompt, str):  # calls are objects in the engine; prepare said what to change
            assert any("tojson" in warning for warning in ready.summary["warnings"]), prompt
        else:
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


def _logprobs(model: Any) -> torch.Tensor:
    """The log-probabilities of the text by transformers."""
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
