"""vLLM on the CPU loads each family's base with the adapter that was trained, and sees training's prompt."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.families.conversations import CONVERSATIONS
from tests.families.families import Family, with_engine
from tests.families.stages import RANK, Prepared, Record, Refused, Runs, Trained, prepared, works

pytestmark = pytest.mark.engine
Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def engine(runs: Runs) -> Answers:
    """What vLLM answers with each adapter, by the name of its family; one process serves all in turn."""
    trained = {family: runs.run(family, "LoRA") for family in with_engine()}
    tasks = [_task(family, run) for family, run in trained.items() if isinstance(run, Trained)]
    command = [sys.executable, "-m", "tests.families.engine"]
    done = subprocess.run(command, input=json.dumps(tasks), stdout=subprocess.PIPE, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"family"')]
    return {result["family"]: result for result in results}


def _task(family: Family, run: Trained) -> dict[str, Any]:
    return {
        "family": family.name,
        "base": str(run.base),
        "adapter": str(run.output),
        "rank": RANK,
        "multimodal": family.vision is not None,
        "messages": CONVERSATIONS["one turn"]["messages"][:-1],
        "options": run.prepared.get("chatTemplateKwargs") or {},
    }


def test_the_engine_answers_with_the_adapter_after_the_prompt_of_training(
    family: Family, engine: Answers, runs: Runs, tmp_path: Path, record_property: Record
) -> None:
    run = runs.run(family, "LoRA")
    if isinstance(run, Refused):
        pytest.skip("refused in prepare")
    answer = engine.get(family.name, {"error": "the engine's process died"})
    if not works(
        Refused(answer["error"]) if "error" in answer else answer, family.no_engine, record_property
    ):
        return
    ready = prepared(run.base, "LoRA", tmp_path / "prompt", [CONVERSATIONS["one turn"]])
    assert isinstance(ready, Prepared)
    assert answer["prompt"] == _prompt(ready)
    base, tuned = answer["logprobs"]
    assert base != tuned


def _prompt(ready: Prepared) -> list[int]:
    """The tokens before the first trained one."""
    line = ready.rows[0]
    first = next(place for place, label in enumerate(line["labels"]) if label >= 0)
    return list(line["input_ids"][:first])
