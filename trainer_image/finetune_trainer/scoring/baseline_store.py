"""The base's graded answers: in the workspace for evaluate, and beside the destination for the next run."""

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import EngineSpec, EvaluationSpec, Job
from finetune_trainer.scoring.client import GREEDY
from finetune_trainer.scoring.rows import GradedRow, read_rows, write_rows
from finetune_trainer.workspace import Workspace, destination_dir

_FORMAT = 3  # changed when the meaning of stored rows or the way of asking changes
_log = logging.getLogger(__name__)


def baseline_key(
    summary: dict[str, Any], evaluation: EvaluationSpec, engine: EngineSpec | None, asked: str | None = None
) -> str:
    """What the base's graded answers depend on: base, engine, questions, graders, decoding (64 hex digits).

    Not what a judge is asked about them: its replies are stored on their own, and answers are judged anew.
    `asked` is the digest of the questions, where they are not those of the hold-out as it is.
    """
    parts = {
        "format": _FORMAT,
        "base": summary["baseFingerprint"],
        "engine": _runs_by(engine or EngineSpec()),
        "holdout": asked or summary["holdoutDigest"],
        "graders": [
            spec.model_dump(mode="json", by_alias=True, exclude={"margin", "criteria"})
            for spec in evaluation.graders
        ],
        "decoding": {"maxTokens": evaluation.output_tokens, **GREEDY},
        "template": template_kwargs(summary),
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _runs_by(engine: EngineSpec) -> dict[str, Any]:
    template = None if engine.server is None else engine.server.template
    return {"image": engine.image, "args": engine.args, "env": engine.env, "server": template}


def template_kwargs(summary: dict[str, Any]) -> dict[str, Any]:
    """What prepare decided that every rendering of the chat template gets."""
    return dict(summary["chatTemplateKwargs"])


def rows_path(workspace: Workspace, who: str, key: str) -> Path:
    """Where the graded answers of `who` (base or tuned) are stored in the workspace."""
    return workspace.results_dir / "rows" / f"{who}-{key[:12]}.jsonl"


def cached_baseline(job: Job, key: str) -> list[GradedRow] | None:
    """What an earlier run stored beside the destination, or None."""
    return read_rows(_cache_path(job, key))


def cache_baseline(job: Job, key: str, rows: list[GradedRow]) -> None:
    """Keep the rows for the next run; without a place to keep them, the next run just asks again."""
    try:
        write_rows(_cache_path(job, key), rows)
    except OSError as error:
        _log.warning("the baseline is not cached beside the destination: %s", error.strerror)


def _cache_path(job: Job, key: str) -> Path:
    return destination_dir(job).parent / ".finetune-baselines" / f"{key}.jsonl"
