"""A job of a tiny base through the real stages, in this process: prepare, then train."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import Job
from finetune_trainer.errors import UserError
from finetune_trainer.stages import prepare
from finetune_trainer.stages.train import train_process
from finetune_trainer.trained_rows import map_rows
from finetune_trainer.training.signals import StopRequest
from finetune_trainer.workspace import Workspace
from tests.families.conversations import CONVERSATIONS
from tests.families.families import Family
from tests.families.tiny import build

Record = Callable[[str, object], None]
RANK = 8
_ROWS = 8  # two steps of four
_DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Refused:
    """What prepare, or an engine, says against a base."""

    sentence: str


@dataclass(frozen=True)
class Trained:
    """A run that ended well: where its output lies, what prepare and train said of it."""

    base: Path
    output: Path
    prepared: dict[str, Any]
    summary: dict[str, Any]


@dataclass(frozen=True)
class Prepared:
    """What prepare left: its summary and the tokenised rows."""

    job: Job
    workspace: Workspace
    summary: dict[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        """What every rendering passes to the chat template."""
        return dict(self.summary.get("chatTemplateKwargs") or {})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows as training reads them."""
        return list(map_rows(self.workspace.dataset_train).to_pylist())


def works(outcome: object, foreseen: str | None, record: Record) -> bool:
    """Whether something works; a refusal must be the one that the table foresees, and none a false one."""
    if not isinstance(outcome, Refused):
        assert foreseen is None, f"this works, and the table says: {foreseen}"
        return True
    record("refused", outcome.sentence)
    assert foreseen is not None, outcome.sentence
    assert foreseen in outcome.sentence
    return False


class Runs:
    """Bases and runs below one folder, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        (root / "destination" / "adapters").mkdir(parents=True)
        self._root = root
        self._pod = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "RANK": 0, "LOCAL_RANK": 0,
            "WORLD_SIZE": 1, "FT_PROGRESS_PORT": 0, "FT_SOURCES_ROOT": root / "sources",
            "FT_DESTINATION_ROOT": root / "destination",
        }  # fmt: skip
        self._runs: dict[tuple[str, str], Trained | Refused] = {}
        self._prepared: dict[tuple[str, str], Prepared | Refused] = {}

    def base(self, family: Family) -> Path:
        """The base's folder, on a volume that a pod would have mounted."""
        folder = self._root / "sources" / "pvc" / "bases" / family.name
        return folder if folder.is_dir() else build(family, folder)

    def run(self, family: Family, method: str) -> Trained | Refused:
        """Two steps of a method; whatever training raises is raised."""
        key = family.name, method
        if key not in self._runs:
            with self._as_in_a_pod():
                self._runs[key] = _run(
                    self.base(family), method, self._root / f"{family.name}-{method.lower()}"
                )
        return self._runs[key]

    def prepared(self, family: Family, kind: str) -> Prepared | Refused:
        """One conversation of a kind, prepared for LoRA."""
        key = family.name, kind
        if key not in self._prepared:
            root = self._root / f"{family.name}-{kind.replace(' ', '-')}"
            with self._as_in_a_pod():
                self._prepared[key] = _prepare(self.base(family), "LoRA", root, [CONVERSATIONS[kind]])
        return self._prepared[key]

    @contextmanager
    def _as_in_a_pod(self) -> Iterator[None]:
        """The environment of a pod with one process, whose volumes are mounted below this folder."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._pod.items():
                patch.setenv(name, str(value))
            yield


def _run(base: Path, method: str, root: Path) -> Trained | Refused:
    ready = _prepare(base, method, root, [_row(number) for number in range(_ROWS)])
    if isinstance(ready, Refused):
        return ready
    job, workspace = ready.job.model_copy(update={"stage": "train"}), ready.workspace
    result = train_process(job, workspace, StopRequest(), lambda _: None)
    return Trained(base, workspace.output_dir(job), ready.summary, dict(result.summary))


def _prepare(base: Path, method: str, root: Path, rows: list[dict[str, Any]]) -> Prepared | Refused:
    """Run prepare on rows for a base that lies below FT_SOURCES_ROOT/pvc."""
    job, workspace = Job.model_validate(_document(base, method, root, rows)), Workspace(root / "workspace")
    try:
        return Prepared(job, workspace, dict(prepare.run(job, workspace).summary))
    except UserError as refusal:
        return Refused(str(refusal))


def _document(base: Path, method: str, root: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """job.json; base and rows lie where the operator would mount them."""
    _write_rows(Path(os.environ["FT_SOURCES_ROOT"]) / "configmap" / root.name / "train.jsonl", rows)
    spec = {
        "baseModel": {"source": f"pvc://{base.parent.name}/{base.name}"},
        "method": method,
        "lora": None if method == "Full" else {"rank": RANK, "alpha": 16},
        "dataset": {"source": f"configmap://{root.name}/train.jsonl", "rules": {"too_few": "Ignore"}},
        "training": {"epochs": 1, "effectiveBatchSize": 4, "learningRate": "1e-3"},
        "output": {"destination": f"pvc://adapters/{root.name}"},
        "resources": {"nodes": 1, "gpusPerNode": 0, "processesPerNode": 1},
    }
    return {
        "schemaVersion": 1, "namespace": "demo", "name": "family", "uid": "u", "stage": "prepare", "attempt": 1,
        "specDigest": _DIGEST, "inputDigest": _DIGEST, "spec": spec,
    }  # fmt: skip


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(number: int) -> dict[str, Any]:
    """A question with an answer of its own length, and every other one with a second answer."""
    turns = [("user", f"What is {number} times 7?"), ("assistant", f"It is {number * 7}." + " Yes." * number)]
    if number % 2:
        turns += [("user", "Are you sure?"), ("assistant", f"I am: {number * 7}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
