"""The judge within a stage: its key and its replies, progress while it judges, and what it cost."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from finetune_trainer.contracts import Job
from finetune_trainer.judging.judge import JudgeUse
from finetune_trainer.judging.replies import Replies
from finetune_trainer.judging.session import JudgeAccess
from finetune_trainer.progress import ProgressServer
from finetune_trainer.sources.credentials import credential
from finetune_trainer.workspace import Workspace, destination_dir

_WARNINGS = 5


def judge_access(job: Job, workspace: Workspace, *, required: bool) -> JudgeAccess:
    """The mounted key, and the replies of this run and of earlier ones with the same destination folder."""
    replies = Replies(_own_replies(workspace), _shared_replies(job))
    return JudgeAccess(credential("judge", "token"), replies, required=required)


def share_replies(job: Job, access: JudgeAccess) -> None:
    """Keep the replies beside the destination, for the next run on the same base and hold-out."""
    if job.spec.evaluation and job.spec.evaluation.judge:
        access.replies.copy_to(_shared_replies(job))


def judging_progress(
    job: Job, server: ProgressServer, steps: int, before: JudgeUse
) -> Callable[[JudgeUse], None]:
    """Shows how many of the judge's decisions are made, and its cost since the stage began."""
    done = 0

    def watch(use: JudgeUse) -> None:
        nonlocal done
        done += 1
        server.stepped(
            step=done, total_steps=steps, message="judging answers", judge_cost=_cost(job, before + use)
        )

    return watch


def judge_summary(
    job: Job, use: JudgeUse, warnings: Sequence[str], flip_rate: float | None = None
) -> dict[str, Any]:
    """The parts `judge` and `warnings` of a stage's summary; {} without a judge."""
    if job.spec.evaluation is None or job.spec.evaluation.judge is None:
        return {}
    found = {
        "requests": use.usage.requests,
        "cached": use.cached,
        "inputTokens": use.usage.input_tokens,
        "outputTokens": use.usage.output_tokens,
        "cost": _cost(job, use),
        "currency": _currency(job),
        "flipRate": None if flip_rate is None else round(flip_rate, 4),
    }
    told = {name: value for name, value in found.items() if value is not None}
    return {"judge": told, "warnings": [*warnings, *_uncounted(found["cost"], use)][:_WARNINGS]}


def _uncounted(cost: object, use: JudgeUse) -> list[str]:
    if cost is None or not use.usage.uncounted:
        return []
    text = f"The judge's endpoint did not say how many tokens {use.usage.uncounted} of its answers took"
    return [f"{text}, so judging costs more than is shown."]


def _cost(job: Job, use: JudgeUse) -> float | None:
    judge = job.spec.evaluation.judge if job.spec.evaluation else None
    cost = judge.cost(use.usage.input_tokens, use.usage.output_tokens) if judge else None
    return None if cost is None else round(float(cost), 6)


def _currency(job: Job) -> str | None:
    if job.accelerator and job.accelerator.currency:
        return job.accelerator.currency
    return job.budget.currency if job.budget else None


def _own_replies(workspace: Workspace) -> Path:
    return workspace.results_dir / "judge" / "replies.jsonl"


def _shared_replies(job: Job) -> Path:
    judge = job.spec.evaluation.judge if job.spec.evaluation else None
    named = sha256(f"{judge.url} {judge.model}".encode() if judge else b"").hexdigest()[:16]
    return destination_dir(job).parent / ".finetune-baselines" / f"judge-{named}.jsonl"
