"""The report as plain text, and what `check --output json` prints."""

import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from finetune_trainer.data.findings import Finding
from finetune_trainer.report.document import (
    DataSummary,
    Estimate,
    Histogram,
    Lengths,
    MemoryPlan,
    Report,
    Scoring,
)
from finetune_trainer.report.readiness import readiness
from finetune_trainer.words import duration, gib, money, number, plural, printable, setting, share

_WIDEST, _NARROWEST = 120, 40  # longer lines are hard to read, shorter ones hold no sentence
_FINDINGS = 10  # at most, the worst first; report.json has all
_LABEL = 10  # characters for the word at the start of an entry
_EIGHTHS = "▁▂▃▄▅▆▇█"
_SEVERITIES = ("error", "warning", "info")
_COLOURS = {"error": "31", "warning": "33", "info": "34", "good": "32"}


@dataclass(frozen=True)
class _Entry:
    """A word at the left and paragraphs beside it; `tone` colours the word."""

    label: str
    paragraphs: tuple[str, ...]
    tone: str = ""


def print_report(report: Report, stream: TextIO, environment: Mapping[str, str] = os.environ) -> None:
    """Write the report as the stream can show it: colours only on a terminal, never with NO_COLOR."""
    colour = stream.isatty() and not environment.get("NO_COLOR")
    stream.write(terminal_report(report, shutil.get_terminal_size().columns, colour))


def terminal_report(report: Report, width: int = 80, colour: bool = False) -> str:
    """The report in lines of at most `width` (40 to 120) characters; colour codes take no width."""
    columns = max(_NARROWEST, min(width, _WIDEST))
    blocks = [_headline(report), _data(report), _findings(report.findings), _numbers(report), _advice(report)]
    written = ["".join(_lines(entry, columns, colour) for entry in block) for block in blocks if block]
    return "\n".join(written).replace("\N{NO-BREAK SPACE}", " ")


def check_json(findings: Sequence[Finding], rows: int, tokens: int | None) -> dict[str, Any]:
    """The stable shape of `check --output json`; `tokens` is null without a tokenizer."""
    return {"findings": [item.to_json() for item in findings], "rows": rows, "tokens": tokens}


def _lines(entry: _Entry, width: int, colour: bool) -> str:
    texts = [line for text in entry.paragraphs for line in textwrap.wrap(printable(text), width - _LABEL)]
    label = f"{entry.label:<{_LABEL}}"
    if colour and entry.tone:
        label = f"\x1b[1;{_COLOURS[entry.tone]}m{label}\x1b[0m"
    first, *rest = texts or [""]
    return "".join(f"{line}\n" for line in [label + first, *(" " * _LABEL + line for line in rest)])


def _headline(report: Report) -> list[_Entry]:
    verdict = readiness(report)
    about = f"{report.job.namespace}/{report.job.name}: " if report.job else ""
    sign = {"good": "ready", "warning": "check", "error": "refused"}[verdict.level]
    return [_Entry(sign, (f"{about}{verdict.text}",), verdict.level)]


def _data(report: Report) -> list[_Entry]:
    entries = [_Entry("train", _told(report.datasets.train))]
    holdout = report.datasets.holdout
    return [*entries, _Entry("hold-out", _told(holdout))] if holdout else entries


def _told(data: DataSummary) -> tuple[str, ...]:
    parts = [plural(data.rows, "row")]
    if len(data.files) > 1:
        parts.append(plural(len(data.files), "file"))
    if data.format:
        parts.append(data.format)
    if data.tokens is not None:
        parts.append(plural(data.tokens, "token"))
    if data.tokens and data.trained_tokens is not None:
        parts.append(f"{share(data.trained_tokens, data.tokens)} trained")
    return data.source, ", ".join(parts)


def _findings(findings: Sequence[Finding]) -> list[_Entry]:
    ordered = sorted(findings, key=lambda item: (item.ignored, _SEVERITIES.index(item.severity)))
    entries = [_finding(item) for item in ordered[:_FINDINGS]]
    hidden = len(ordered) - len(entries)
    return [*entries, _Entry("", (f"And {plural(hidden, 'more finding')}.",))] if hidden else entries


def _finding(item: Finding) -> _Entry:
    counted = f", {plural(item.count, 'row')}" if item.rows else ""
    where = f"{item.rule} (rule {item.number}, {item.dataset}{counted})"
    chosen = f" [set to {item.overridden} in dataset.rules]" if item.overridden else ""
    label, tone = ("ignored", "") if item.ignored else (item.severity, item.severity)
    return _Entry(label, (where + chosen, item.message), tone)


def _numbers(report: Report) -> list[_Entry]:
    entries = []
    if report.lengths:
        entries.append(_Entry("lengths", _length_lines(report.lengths)))
    if report.training:
        chosen = {**report.training, **(report.lora or {})}
        entries.append(
            _Entry("training", (", ".join(f"{name} {setting(value)}" for name, value in chosen.items()),))
        )
    if report.memory:
        entries.append(
            _Entry("memory", tuple(_memory_lines(report.memory)), "good" if report.memory.fits else "error")
        )
    if report.scoring:
        entries.append(_Entry("scoring", (_scoring_line(report.scoring),)))
    if report.estimate:
        entries += _estimate(report.estimate)
    return entries


def _length_lines(lengths: Lengths) -> tuple[str, str]:
    limit = f", maxLength {number(lengths.limit)}" if lengths.limit is not None else ""
    spread = f"p5 {number(lengths.p5)}, p50 {number(lengths.p50)}, p95 {number(lengths.p95)}"
    drawn = f"{number(lengths.min)} {sparkline(lengths.histogram)} {number(lengths.max)} tokens per row"
    return drawn, spread + limit


def sparkline(counted: Histogram) -> str:
    """One letter per count, as high as the count; a dot where there is nothing."""
    highest = max(counted.counts, default=0)
    return "".join(
        _EIGHTHS[(count * (len(_EIGHTHS) - 1)) // highest] if count else "·" for count in counted.counts
    )


def _memory_lines(plan: MemoryPlan) -> Iterator[str]:
    fits = ("fits, tightly" if plan.tight else "fits") if plan.fits else "does not fit"
    method = f"{plan.method} " if plan.method else ""
    where = f"{plan.gpus} x {plan.gpu or 'GPU'} of {gib(plan.gpu_memory_gib)}"
    yield f"{gib(plan.peak_gib)} of {gib(plan.limit_gib)} on {where}: {method}{fits}"
    yield ", ".join(f"{name} {gib(size)}" for name, size in plan.shown.items())
    if plan.measured_peak_gib is not None:
        yield f"measured peak {gib(plan.measured_peak_gib)}"
    chosen = plan.chosen
    yield (
        f"ZeRO stage {chosen.zero_stage}, {number(chosen.micro_batch_tokens)} tokens per micro-batch, "
        f"gradient checkpointing {chosen.gradient_checkpointing}, offload {chosen.offload}"
    )
    if plan.suggestion:
        yield plan.suggestion


def _scoring_line(plan: Scoring) -> str:
    return f"{plan.gpus} x {plan.gpu}: {gib(plan.need_gib)} of {gib(plan.limit_gib)} on each"


def _estimate(estimate: Estimate) -> Iterator[_Entry]:
    basis = "measured" if estimate.calibrated else "guessed"
    bounds = f"{duration(estimate.hours_low)} to {duration(estimate.hours_high)}"
    text = f"{duration(estimate.hours)} ({bounds}) for {plural(estimate.tokens, 'token')}"
    yield _Entry("time", (f"{text} at a {basis} {share(estimate.mfu, 1)} of peak arithmetic",))
    if estimate.cost is not None:
        yield _Entry("cost", (_cost(estimate.cost, estimate),))
    if estimate.savings:
        days = estimate.savings.break_even_days
        back = "never pays back" if days is None else f"pays back in {duration(24 * days)}"
        saved = money(estimate.savings.per_month, estimate.currency)
        yield _Entry("savings", (f"{saved} a month; the training {back}",))


def _cost(cost: float, estimate: Estimate) -> str:
    text = money(cost, estimate.currency)
    if estimate.cost_low is not None and estimate.cost_high is not None:
        text += f" ({money(estimate.cost_low, None)} to {money(estimate.cost_high, None)})"
    if estimate.budget is not None:
        text += f", budget {money(estimate.budget, estimate.currency)}"
    return text


def _advice(report: Report) -> list[_Entry]:
    return [_Entry("advice", (f"{item.reason}: {item.message}",), "info") for item in report.advice]
