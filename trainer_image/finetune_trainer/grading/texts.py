"""Graders that read the output as text: ExactMatch, OneOf, Contains and Regex."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import regex

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.grading.grades import Grade, scored, ungraded
from finetune_trainer.grading.values import normalise

_SEARCH_SECONDS = 1.0


def exact_match(_spec: GraderSpec, output: str, reference: str) -> Grade:
    """1 if output and reference are the same text but for case, white space and typography."""
    same = normalise(output) == normalise(reference)
    return scored(float(same), "" if same else "differs from the expected output")


def one_of(spec: GraderSpec, output: str, reference: str) -> Grade:
    """1 if the output is one of the accepted answers."""
    accepted = spec.values or _listed(reference)
    same = normalise(output) in map(normalise, accepted)
    return scored(float(same), "" if same else "is none of the accepted answers")


def contains(spec: GraderSpec, output: str, reference: str) -> Grade:
    """1 if the reference, or every one of `values`, occurs in the output."""
    text = normalise(output)
    absent = [value for value in spec.values or (reference,) if normalise(value) not in text]
    return scored(0.0, f"does not contain {absent[0][:100]!r}") if absent else scored(1.0, "")


def matches(spec: GraderSpec, output: str, _reference: str) -> Grade:
    """1 if the pattern is found somewhere in the output; ungraded if the search takes too long."""
    try:
        found = search(spec.pattern or "", output)
    except TimeoutError as slow:
        return ungraded(str(slow))
    return scored(1.0, "") if found else scored(0.0, "the pattern is not found")


def search(pattern: str, text: str) -> Any:
    """The first match of a regular expression, or None; TimeoutError after a second."""
    try:
        return compiled(pattern).search(text, timeout=_SEARCH_SECONDS)
    except TimeoutError as slow:
        raise TimeoutError(f"the pattern searched {_SEARCH_SECONDS:.0f} s without an end") from slow


@lru_cache(maxsize=64)
def compiled(pattern: str) -> Any:
    """A pattern of the `regex` package, whose searches can be ended; `regex.error` if it is none."""
    return regex.compile(pattern)


def pattern_problem(spec: GraderSpec) -> str | None:
    """Why the grader's pattern cannot be used, or None."""
    try:
        compiled(spec.pattern or "")
    except regex.error as error:
        return f"the pattern is not a regular expression ({error})"
    return None


def values_problem(spec: GraderSpec) -> str | None:
    """Why the grader's values cannot be looked for, or None."""
    return None if all(map(normalise, spec.values or ())) else "one of the values is empty"


def no_text(_spec: GraderSpec, reference: str) -> str | None:
    """Why the reference cannot be compared as text, or None."""
    return None if normalise(reference) else "the expected output is empty"


def nothing_contained(spec: GraderSpec, reference: str) -> str | None:
    """Why Contains has nothing to look for, or None."""
    return None if spec.values else no_text(spec, reference)


def no_list(spec: GraderSpec, reference: str) -> str | None:
    """Why the reference names no accepted answers, or None."""
    if spec.values or _listed(reference):
        return None
    return "the expected output is not a JSON list of texts (or give the grader `values`)"


def first_accepted(spec: GraderSpec, reference: str) -> str:
    """An output that OneOf has to accept."""
    return reference if spec.values else _listed(reference)[0]


def _listed(reference: str) -> Sequence[str]:
    """The texts of a JSON list; none if the reference is anything else or holds an empty one."""
    try:
        value = json.loads(reference)
    except (ValueError, RecursionError):
        return ()
    texts = isinstance(value, list) and all(isinstance(each, str) and normalise(each) for each in value)
    return value if texts else ()
