"""report.html: the report as one page that loads nothing from elsewhere.

Its one script filters the rows of an evaluation; the page names its digest, so that no other one runs.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from finetune_trainer import words
from finetune_trainer.data.findings import Finding, name_rows
from finetune_trainer.evaluation import drawings
from finetune_trainer.evaluation.document import Evaluation
from finetune_trainer.report import plots
from finetune_trainer.report.document import Duplicates, Estimate, Example, Lengths, MemoryPlan, Report
from finetune_trainer.report.figures import key_figures
from finetune_trainer.report.mask import Gap, abbreviated, runs, visible
from finetune_trainer.report.readiness import over_budget, readiness
from finetune_trainer.report.scale import Mark

_GROUPS = {"error": "Errors", "warning": "Warnings", "info": "For information"}


def report_html(report: Report) -> str:
    """The page; everything that comes from data is escaped by the template."""
    script = _script() if report.evaluation and report.evaluation.shown else ""
    return _template().render(
        report=report,
        readiness=readiness(report),
        over_budget=over_budget(report) is not None,
        figures=key_figures(report),
        findings=_grouped(report.findings),
        drawings=_drawings(report),
        tokens=abbreviated(report.example.tokens) if report.example else [],
        settings=_settings(report),
        script=Markup(script),  # noqa: S704 (our own file)
        script_digest=b64encode(sha256(script.encode()).digest()).decode(),
    )


@cache
def _script() -> str:
    return files("finetune_trainer.report").joinpath("templates/filter.js").read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("finetune_trainer.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number, "gib": words.gib, "money": words.money, "duration": words.duration,
        "percent": words.percent, "points": words.points,
        "visible": visible, "printable": words.printable, "lines": _lines,
    }  # fmt: skip
    environment.tests["gap"] = lambda piece: isinstance(piece, Gap)
    environment.globals |= {"share": words.share, "plural": words.plural, "name_rows": name_rows}
    return environment.get_template("report.html")


def _lines(text: str) -> str:
    """A text of several lines without other control characters."""
    return words.printable(text, keep="\n\t")


def _grouped(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """Findings by heading, the worst first; what the job ignores stands last, whatever its severity."""
    groups = {
        heading: [item for item in findings if item.severity == severity and not item.ignored]
        for severity, heading in _GROUPS.items()
    }
    groups["Ignored by the job"] = [item for item in findings if item.ignored]
    return {heading: found for heading, found in groups.items() if found}


def _drawings(report: Report) -> dict[str, Markup]:
    """The plots of the parts that exist, by the name under which the template places them."""
    drawn: dict[str, str] = {}
    if report.lengths:
        drawn |= _length_drawings(report.lengths)
    if report.duplicates:
        drawn["duplicates"] = _duplicates(report.duplicates, report.datasets.train.rows)
    if report.example:
        drawn["mask"] = _mask(report.example)
    if report.memory:
        drawn["memory"] = _memory(report.memory)
    if report.estimate and (cost := _cost(report.estimate)):
        drawn["cost"] = cost
    if report.evaluation:
        drawn |= _evaluation_drawings(report.evaluation)
    # plots escapes every text that it draws, so its drawings are markup.
    return {name: Markup(drawing) for name, drawing in drawn.items()}  # noqa: S704


def _evaluation_drawings(evaluation: Evaluation) -> dict[str, str]:
    drawn = {"scores": drawings.scores(evaluation), "difference": drawings.difference(evaluation)}
    if (curves := evaluation.curves) and curves.loss:
        drawn |= {"loss": drawings.loss(curves), "learning_rate": drawings.learning_rate(curves)}
    return drawn


def _length_drawings(lengths: Lengths) -> dict[str, str]:
    percentiles = {"p5": lengths.p5, "p50": lengths.p50, "p95": lengths.p95}
    marks = [Mark(value, f"{name} {words.number(value)}") for name, value in percentiles.items()]
    if lengths.limit is not None:
        marks.append(Mark(lengths.limit, f"maxLength {words.number(lengths.limit)}", "limit"))
    return {
        "rows": plots.histogram("Tokens per row", lengths.histogram, marks),
        "answers": plots.histogram("Trained tokens per row", lengths.answers),
    }


def _duplicates(duplicates: Duplicates, rows: int) -> str:
    once = max(0, rows - duplicates.exact_rows - duplicates.near_rows)
    parts = [("rows that stand alone", once), ("near duplicates", duplicates.near_rows),
             ("exact duplicates", duplicates.exact_rows)]  # fmt: skip
    return plots.stacked_bar("Duplicate rows", parts, rows, words.number)


def _mask(example: Example) -> str:
    lengths = [(len(run.tokens), run.trained) for run in runs(example.tokens)]
    return plots.strip(f"Label mask of row {example.row}", lengths)


def _memory(plan: MemoryPlan) -> str:
    limit = f"limit {words.gib(plan.limit_gib)}"
    if plan.gpu_memory_gib:
        limit = f"{words.share(plan.limit_gib, plan.gpu_memory_gib)} = {words.gib(plan.limit_gib)}"
    marks = [Mark(plan.limit_gib, limit, "limit")]
    if plan.measured_peak_gib is not None:
        marks.append(
            Mark(plan.measured_peak_gib, f"measured {words.gib(plan.measured_peak_gib)}", "measured")
        )
    return plots.stacked_bar(
        "Memory of one GPU", [*plan.shown.items()], plan.gpu_memory_gib, words.gib, marks
    )


def _cost(estimate: Estimate) -> str | None:
    low, middle, high = estimate.cost_low, estimate.cost, estimate.cost_high
    if low is None or middle is None or high is None:
        return None
    budget = estimate.budget
    marks = [] if budget is None else [Mark(budget, f"budget {words.money(budget, None)}", "budget")]
    return plots.band("Cost", (low, middle, high), lambda value: words.money(value, None), marks)


def _settings(report: Report) -> dict[str, Mapping[str, str]]:
    """The chosen values by their names in the job, as groups."""
    groups: dict[str, Mapping[str, Any]] = {}
    if report.training:
        groups["training"] = report.training
    if report.lora:
        groups["lora"] = report.lora
    if report.memory:
        chosen = report.memory.chosen.model_dump(by_alias=True)
        groups["per GPU"] = {key: value for key, value in chosen.items() if value != "None"}
    return {name: {key: words.setting(v) for key, v in group.items()} for name, group in groups.items()}
