"""The types of graders, and how every one of them is called."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from finetune_trainer.chat.calls import CallSyntax, has_unreadable, read_calls
from finetune_trainer.contracts import IN_OWN_POD, JUDGED, GraderSpec, GraderType
from finetune_trainer.grading import calls, own, similarities, structures, texts
from finetune_trainer.grading.grades import Grade, ungraded

# Types that need a network or a pod of their own: their rows are graded after all answers are stored.
DEFERRED: frozenset[GraderType] = frozenset({"Perplexity", *JUDGED, *IN_OWN_POD})
NOT_YET = "not graded yet"
_SECONDS = 5.0  # for one row


def _no_problem(_spec: GraderSpec) -> None:
    return None


def _judges_any(_spec: GraderSpec, _reference: str) -> None:
    return None


def _later(_spec: GraderSpec, _output: str, _reference: str) -> Grade:
    return ungraded(NOT_YET)


def _itself(_spec: GraderSpec, reference: str) -> str:
    return reference


@dataclass(frozen=True)
class _Type:
    """How a type grades, what it needs of settings and references, and what has to earn full marks."""

    grade: Callable[[GraderSpec, str, str], Grade]
    settings: Callable[[GraderSpec], str | None] = _no_problem
    reference: Callable[[GraderSpec, str], str | None] = _judges_any
    ideal: Callable[[GraderSpec, str], str] = _itself


_TYPES: dict[GraderType, _Type] = {
    "ExactMatch": _Type(texts.exact_match, reference=texts.no_text),
    "OneOf": _Type(texts.one_of, texts.values_problem, texts.no_list, texts.first_accepted),
    "Contains": _Type(texts.contains, texts.values_problem, texts.nothing_contained),
    "Regex": _Type(texts.matches, texts.pattern_problem),
    "FieldMatch": _Type(structures.field_match, structures.fields_problem, structures.no_fields),
    "JsonSchema": _Type(structures.json_schema, structures.schema_problem),
    "ToolCall": _Type(calls.tool_call, reference=calls.no_calls),
    "Similarity": _Type(similarities.similarity, reference=texts.no_text),
    "Perplexity": _Type(_later, reference=texts.no_text),
    "Python": _Type(own.own, own.class_problem),
}


def grade(spec: GraderSpec, output: str, reference: str) -> Grade:
    """Score one output; an unexpected failure of the grader itself leaves the row ungraded.

    So does one that takes longer than 5 s, and a deferred type until its owner grades the row.
    """
    if spec.type in DEFERRED:
        return ungraded(NOT_YET)
    try:
        with _ending_after(_SECONDS):
            problem = _TYPES[spec.type].reference(spec, reference)
            return ungraded(problem) if problem else _TYPES[spec.type].grade(spec, output, reference)
    except TimeoutError:
        return ungraded(f"the grader took longer than {_SECONDS:.0f} s")
    except (Exception, SystemExit) as error:  # one grader's defect on one row must not end an evaluation
        return ungraded(f"the grader failed with {type(error).__name__}")


def settings_problem(spec: GraderSpec) -> str | None:
    """Why the grader cannot work whatever the rows are, or None."""
    return None if spec.type in DEFERRED else _TYPES[spec.type].settings(spec)


def reference_problem(spec: GraderSpec, reference: str) -> str | None:
    """Why `reference` gives this grader no ground truth, or None (rule 42 of the data checks)."""
    known = _TYPES.get(spec.type)
    return known.reference(spec, reference) if known else None


def ideal_output(spec: GraderSpec, reference: str) -> str:
    """An output that the reference asks for; the reference has to be one that the grader can use."""
    return reference if spec.type in DEFERRED else _TYPES[spec.type].ideal(spec, reference)


def grade_reference(spec: GraderSpec, reference: str) -> Grade:
    """The grade of the output that the reference asks for; unless it is full marks, one of them is wrong."""
    return grade(spec, ideal_output(spec, reference), reference)


def as_read(spec: GraderSpec, text: str, syntax: CallSyntax | None) -> str:
    """A text as this type of grader reads it: for ToolCall the calls in it, as a JSON list.

    A text with a call that cannot be read stays as it is, and is no list of calls.
    """
    if spec.type != "ToolCall" or syntax is None or has_unreadable(text):
        return text
    try:
        return json.dumps([call.to_json() for call in read_calls(syntax, text)], ensure_ascii=False)
    except RecursionError:
        return text  # no list of calls: too deep to be compared


@contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """TimeoutError in what takes longer; only the main thread, which grades, can be interrupted.

    Searches of `re` look at signals as well: patterns inside a JSON Schema have no limit of their own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError
