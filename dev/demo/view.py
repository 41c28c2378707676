"""What the demo shows of a FineTuneJob and an AdapterDeployment: pure functions from objects to rich text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Object = Mapping[str, Any]
SHOWN_QUESTION = 160

STAGES = (
    ("Prepare", "Validated"),
    ("Baseline", "BaselineScored"),
    ("Train", "Trained"),
    ("Evaluate", "Evaluated"),
    ("Publish", "Published"),
)


def condition(obj: Object, kind: str) -> Mapping[str, Any]:
    """One condition of an object's status, empty while it is unknown."""
    conditions: Sequence[Mapping[str, Any]] = obj.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind), {})


def stage_rows(job: Object) -> list[tuple[str, float, str]]:
    """(stage, fraction done, what to say) for the five stages of a run."""
    progress = job.get("status", {}).get("progress", {})
    current = job.get("status", {}).get("stage")
    rows = []
    for stage, kind in STAGES:
        done = condition(job, kind)
        if done.get("status") == "True":
            rows.append((stage, 1.0, done.get("message", "")))
        elif stage == current:
            rows.append((stage, float(progress.get("percent") or 0) / 100, progress_line(progress)))
        else:
            rows.append((stage, 0.0, done.get("message", "") if done.get("status") == "False" else ""))
    return rows


def progress_line(progress: Mapping[str, Any]) -> str:
    """Step, loss, speed and time left, as far as they are known."""
    parts = []
    if progress.get("totalSteps"):
        parts.append(f"step {progress.get('step', 0)}/{progress['totalSteps']}")
    if progress.get("loss"):
        parts.append(f"loss {progress['loss']}")
    if progress.get("tokensPerSecond"):
        parts.append(f"{float(progress['tokensPerSecond']):.0f} tokens/s")
    if progress.get("eta"):
        parts.append(f"{progress['eta']} left")
    return ", ".join(parts) or str(progress.get("message") or "starting")


def picture(job: Object, deployment: Object | None, elapsed: float) -> RenderableType:
    """The live view: a bar per stage, then the rollout."""
    table = Table.grid(padding=(0, 2))
    for stage, fraction, text in stage_rows(job):
        bar = ProgressBar(total=1.0, completed=fraction, width=24)
        table.add_row(Text(stage, style="bold"), bar, f"{fraction:4.0%}", Text(text, overflow="ellipsis"))
    title = Text(f"FineTuneJob {job['metadata']['name']}   {elapsed:.0f} s", style="bold cyan")
    parts: list[RenderableType] = [title, table]
    if deployment is not None:
        ready = condition(deployment, "Ready")
        name = deployment["metadata"]["name"]
        parts.append(Text(f"AdapterDeployment {name}   {ready.get('reason', 'Pending')}", style="bold cyan"))
        parts.append(Text(ready.get("message", "")))
    return Group(*parts)


def plain_line(job: Object) -> str:
    """The same in one line, for output that is not a terminal."""
    stage = job.get("status", {}).get("stage", "Pending")
    if condition(job, "Succeeded").get("status") in ("True", "False"):
        return str(stage)
    progress = job.get("status", {}).get("progress", {})
    return f"{stage}: {progress.get('percent', 0)} % {progress_line(progress)}"


def score_table(job: Object) -> Table:
    """Base against tuned on the hold-out, with 95 % intervals."""
    scores = job["status"]["scores"]
    table = Table(title=f"{scores['rows']} held-out rows", title_justify="left")
    for heading in ("", "base", "tuned", "difference"):
        table.add_column(heading)
    base, tuned, delta = (
        _interval(scores[k], sign) for k, sign in (("base", ""), ("tuned", ""), ("delta", "+"))
    )
    table.add_row(str(scores["metric"]), base, tuned, delta)
    for name, pair in sorted(scores.get("graders", {}).items()):
        if name != scores["metric"]:
            before, after = float(pair["base"]), float(pair["tuned"])
            table.add_row(name, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
    return table


def _interval(score: Mapping[str, Any], sign: str) -> str:
    value, low, high = (f"{float(score[key]):{sign}.2f}" for key in ("score", "low", "high"))
    return f"{value}  [{low}, {high}]"


def answers_table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    """(question, base answer, tuned answer, reference) side by side."""
    table = Table(
        title="The same question to both, from the served endpoint", title_justify="left", show_lines=True
    )
    for heading in ("review", "base answers", "tuned answers", "reference"):
        table.add_column(heading, overflow="fold", ratio=1)
    for question, *answers in rows:
        table.add_row(*(Text(cell) for cell in (_end(question), *answers)))
    return table


def _end(question: str) -> str:
    """The end of a question: the instruction before it is the same in every row."""
    text = " ".join(question.split())
    return text if len(text) <= SHOWN_QUESTION else "…" + text[-SHOWN_QUESTION:]
