"""The hold-out: prompts with expected answers, and the rules about them (data rules 41 to 43)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.chat.calls import ADDED, Call, CallSyntax, learn, read_calls, with_added
from finetune_trainer.chat.messages import calls_of
from finetune_trainer.chat.reasoning import opens, split_reasoning
from finetune_trainer.chat.tokenizer import ChatTokenizer
from finetune_trainer.contracts import GraderSpec
from finetune_trainer.data.findings import Finding, Severity, found, name_rows
from finetune_trainer.data.formats import Row
from finetune_trainer.data.spellings import Message
from finetune_trainer.grading import DEFERRED, as_read, grade_reference, reference_problem
from finetune_trainer.words import plural

_TOO_FEW = 50
_FEW = 100
_CUT_SHARE = 0.05  # of right answers that may be cut
_ASKED_FOR: Message = {"role": "user", "content": "A question"}
_ASKED = 20  # rows whose prompts the engine is asked for before it is scored


@dataclass(frozen=True)
class HoldoutRow:
    """A prompt and its expected answer ("" when the row has none)."""

    number: int
    id: str
    messages: tuple[Message, ...]
    reference: str
    group: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    prompt_ids: tuple[int, ...] = ()  # of the first rows: what the engine must see
    opened: bool = False  # the prompt ends inside a reasoning block
    tests: str | None = None  # code that an answer has to pass
    answer: Message | None = None  # the closing turn that the reference is taken from
    syntax: CallSyntax | None = None  # how the template writes calls, where the row offers functions

    def to_json(self) -> dict[str, Any]:
        """The row as holdout.jsonl holds it."""
        row = {"id": self.id, "messages": list(self.messages), "reference": self.reference}
        optional = {
            "group": self.group,
            "tools": list(self.tools),
            "promptIds": list(self.prompt_ids),
            "opened": self.opened,
            "tests": self.tests,
            "callSyntax": self.syntax.to_json() if self.syntax else None,
        }
        return row | {key: value for key, value in optional.items() if value}


def split_reference(row: Row) -> HoldoutRow:
    """Take a closing assistant turn as the reference and the rest as the prompt."""
    *before, last = row.messages
    if last["role"] != "assistant":
        return HoldoutRow(row.number, row.id, row.messages, "", row.group, row.tools, tests=row.tests)
    _, reference = split_reasoning(last.get("content") or "")
    return HoldoutRow(
        row.number, row.id, tuple(before), reference, row.group, row.tools, answer=last, tests=row.tests
    )


def with_calls(tokenizer: ChatTokenizer, rows: Sequence[HoldoutRow]) -> list[HoldoutRow]:
    """The rows, with calls in expected answers as the model is to write them, and how to read them there."""
    tools = next((row.tools for row in rows if row.tools), ())
    if not tools or not tokenizer.has_template:
        return list(rows)
    syntax = learn(lambda calls: _answer_text(tokenizer, (_ASKED_FOR,), _calling(calls), tools))
    return [_with_calls(tokenizer, row, syntax) if row.tools else row for row in rows]


def with_calls_added(row: HoldoutRow) -> HoldoutRow:
    """The row for an endpoint that returns calls apart from the text: they follow it, as in the reference."""
    if not row.tools:
        return row
    made = calls_of(row.answer) if row.answer else []
    calls = [Call(call["name"], call.get("arguments") or {}) for call in made]
    return replace(row, reference=with_added(row.reference, calls), syntax=ADDED)


def _with_calls(tokenizer: ChatTokenizer, row: HoldoutRow, syntax: CallSyntax | None) -> HoldoutRow:
    names = [call["name"] for call in calls_of(row.answer)] if row.answer else []
    if not names or row.answer is None:
        return replace(row, syntax=syntax)
    try:
        reference = _answer_text(tokenizer, row.messages, row.answer, row.tools)
    except Exception:  # a template may raise anything
        return row
    if syntax is None or [call.name for call in read_calls(syntax, reference)] != names:
        syntax = None  # the template cannot write these calls, such as two at once: rule 42 tells it
    return replace(row, syntax=syntax, reference=reference)


def _answer_text(
    tokenizer: ChatTokenizer, asked: Sequence[Message], answer: Message, tools: Sequence[dict[str, Any]]
) -> str:
    """What the engine gives of an answer that is written as the template writes it, without its reasoning."""
    written = tokenizer.written([*asked, answer], tools).answer
    return split_reasoning(tokenizer.without_special(written))[1]


def _calling(calls: Sequence[Call]) -> Message:
    # Some templates take ids of nine letters only.
    functions = [
        {"id": f"abcdefgh{place}", "type": "function", "function": call.to_json()}
        for place, call in enumerate(calls)
    ]
    return {"role": "assistant", "content": "", "tool_calls": functions}


def with_prompts(tokenizer: ChatTokenizer, rows: Sequence[HoldoutRow], *, fixed: bool) -> list[HoldoutRow]:
    """The rows with what is known of their prompts; tokens only where they are the same every day."""
    if not tokenizer.has_template:
        return list(rows)
    return [_with_prompt(tokenizer, row, shown=fixed and place < _ASKED) for place, row in enumerate(rows)]


def _with_prompt(tokenizer: ChatTokenizer, row: HoldoutRow, *, shown: bool) -> HoldoutRow:
    prompt = tokenizer.render(row.messages, ask=True, tools=row.tools)
    return replace(row, opened=opens(prompt), prompt_ids=tuple(tokenizer.encode(prompt)) if shown else ())


def eval_size(holdout: Sequence[HoldoutRow]) -> Finding | None:
    """Rule 41: at least 50 rows, better 100 to 200."""
    count = len(holdout)
    if count >= _FEW:
        return None
    text = f"The hold-out has {plural(count, 'row')}; give at least {_TOO_FEW}, better 100 to 200."
    return Finding(41, "eval_size", "error" if count < _TOO_FEW else "warning", count, (), text)


def reference_too_long(holdout: Sequence[HoldoutRow], sizes: Sequence[int], limit: int) -> Finding | None:
    """Rule 25: expected answers of `sizes` tokens fit into the `limit` of an answer."""
    long = [row.number for row, size in zip(holdout, sizes, strict=True) if size > limit]
    severity: Severity = "error" if len(long) > _CUT_SHARE * len(holdout) else "warning"
    text = (
        f"Right answers to {name_rows(long)} would be cut: the expected ones have more tokens than "
        f"evaluation.maxTokens ({limit}); raise it above {max(sizes)}."
        if long
        else ""
    )
    return found(25, "reference_too_long", long, text, severity)


def eval_no_reference(holdout: Sequence[HoldoutRow], graders: Sequence[GraderSpec]) -> Finding | None:
    """Rule 42: every row has the ground truth that each grader needs."""
    wrong = [
        (row.number, grader.name, problem)
        for row in holdout
        for grader in graders
        if (
            problem := _missing_tests(grader, row)
            or reference_problem(grader, as_read(grader, row.reference, row.syntax))
        )
    ]
    if not wrong:
        return None
    numbers = list(dict.fromkeys(number for number, _, _ in wrong))
    number, grader, problem = wrong[0]
    text = (
        f"Grader {grader} cannot judge {name_rows(numbers)}: in row {number} {problem}; correct the answer."
    )
    return found(42, "eval_no_reference", numbers, text)


def _missing_tests(grader: GraderSpec, row: HoldoutRow) -> str | None:
    """What CodeAssert lacks: tests, and an answer that passes them."""
    if grader.type != "CodeAssert":
        return None
    if not (row.tests or grader.tests):
        return "there are no tests, neither in the column `tests` nor in the grader's `tests`"
    return None if row.reference else "the expected output is empty"


def eval_reference_fails(holdout: Sequence[HoldoutRow], graders: Sequence[GraderSpec]) -> Finding | None:
    """Rule 43: every grader that can judge the expected answer (rule 42) gives it full marks."""
    wrong = [
        (row.number, grader.name, result.reason)
        for row in holdout
        for grader in graders
        if row.reference
        and grader.type not in DEFERRED
        and reference_problem(grader, reference := as_read(grader, row.reference, row.syntax)) is None
        and (result := grade_reference(grader, reference)).score != 1
    ]
    if not wrong:
        return None
    numbers = list(dict.fromkeys(number for number, _, _ in wrong))
    number, grader, reason = wrong[0]
    text = (
        f"The graders fail {plural(len(numbers), 'expected answer')}: {name_rows(numbers)} (row {number}, "
        f"{grader}: {reason}); correct the answer or the grader."
    )
    return found(43, "eval_reference_fails", numbers, text)


def duplicate_ids(holdout: Sequence[HoldoutRow]) -> Finding | None:
    """Ids must be distinct: the rows of base and tuned are paired by them (checked with rule 42)."""
    seen: dict[str, int] = {}
    wrong = [row.number for row in holdout if seen.setdefault(row.id, row.number) != row.number]
    text = (
        f"The `id` of {name_rows(wrong)} is used before; make every id in the hold-out distinct."
        if wrong
        else ""
    )
    return found(42, "duplicate_ids", wrong, text)
