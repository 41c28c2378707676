"""Similarity of texts: how much of the wording is the same, which says little about whether it is right.

ROUGE-L: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), the F1 of the longest common
subsequence of words. chrF: Popović, "chrF: character n-gram F-score" (2015), with sacrebleu's settings:
n-grams of 1 to 6 characters without white space, recall counted twice (beta 2).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.contracts.evaluation import SimilarityMetric
from finetune_trainer.grading.grades import Grade, scored

_WORDS = re.compile(r"\w+")
_CHARACTERS = 6
_BETA_SQUARED = 4


def similarity(spec: GraderSpec, output: str, reference: str) -> Grade:
    """The share of the wording that output and reference have in common."""
    measure = _METRICS[spec.metric or "RougeL"]
    share = min(1.0, measure(unicodedata.normalize("NFKC", output), unicodedata.normalize("NFKC", reference)))
    return scored(share, "" if share == 1 else f"{share:.0%} of the wording is the same")


def rouge_l(output: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, in any case."""
    given, expected = (_WORDS.findall(text.casefold()) for text in (output, reference))
    common = _longest_common(given, expected)
    return 2 * common / (len(given) + len(expected)) if common else 0.0


def chrf(output: str, reference: str) -> float:
    """chrF, the F score of character n-grams, with case."""
    given, expected = ("".join(text.split()) for text in (output, reference))
    orders = range(1, min(_CHARACTERS, len(given), len(expected)) + 1)
    if not orders:
        return 0.0
    common = [(_ngrams(given, n) & _ngrams(expected, n)).total() for n in orders]
    precision = sum(same / (len(given) - n + 1) for same, n in zip(common, orders, strict=True)) / len(orders)
    recall = sum(same / (len(expected) - n + 1) for same, n in zip(common, orders, strict=True)) / len(orders)
    weighted = _BETA_SQUARED * precision + recall
    return (1 + _BETA_SQUARED) * precision * recall / weighted if weighted else 0.0


_METRICS: dict[SimilarityMetric, Callable[[str, str], float]] = {"RougeL": rouge_l, "ChrF": chrf}


def _ngrams(text: str, size: int) -> Counter[str]:
    return Counter(text[start : start + size] for start in range(len(text) - size + 1))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, a row of the usual table in one integer's bits.

    Hyyrö, "Bit-parallel LCS-length computation revisited" (2004): 100 kB take a fraction of a second.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(one):
        places[word] = places.get(word, 0) | (1 << place)
    full = (1 << len(one)) - 1
    row = full
    for word in other:
        kept = row & places.get(word, 0)
        row = ((row + kept) | (row - kept)) & full
    return len(one) - row.bit_count()
