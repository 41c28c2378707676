"""How varied the inputs are, and whether training and hold-out are of one kind (data rules 33, 44)."""

from collections.abc import Callable

import numpy as np

from finetune_trainer.data.corpus.facts import SAMPLE, Context, Facts
from finetune_trainer.data.corpus.texts import Texts, input_text
from finetune_trainer.data.corpus.words import Indices, member, mix, ngrams, read_words, strip
from finetune_trainer.data.findings import Finding

_TRIGRAM = 3
_LEAST_DISTINCT = 0.2
_LEAST_TRIGRAMS = 300  # fewer say nothing
_TOP_SHARE = 0.5
# With 100 hold-out rows from the same source D exceeds 0.2 once in a thousand times; a distance of 0.3
# moves a third of the rows.
_LENGTH_DISTANCE = 0.3
_CHANCE = 0.001
_WORDS_DISTANCE = 0.15
_SEED = 17


def low_variety(train: Facts, texts: Texts, context: Context) -> Finding | None:
    """Rule 33: inputs differ by more than the words in the gaps of one form.

    An instruction before every input is normal, so template words do not count as repetition, and a form
    is one with two gaps or more that make up less than half of the input.
    """
    clauses = [text for text in (_repetition(train, texts, context), _form(train, texts, context)) if text]
    if not clauses:
        return None
    text = f"{' and '.join(clauses)}; vary the wording and the subjects of the inputs."
    return Finding(33, "low_variety", "warning", len(train), (), text[0].upper() + text[1:])


def distribution_shift(train: Facts, holdout: Facts) -> Finding | None:
    """Rule 44: lengths (Kolmogorov-Smirnov) and words (Jensen-Shannon) of both sides are of one kind."""
    clauses = [
        *(_lengths(train, holdout, name) for name in ("input", "answer")),
        _vocabulary(train, holdout),
    ]
    told = [text for text in clauses if text]
    if not told:
        return None
    text = f"{'; '.join(told)}; take the hold-out from the data that the model will meet, and train on such."
    return Finding(44, "distribution_shift", "warning", len(holdout), (), text[0].upper() + text[1:])


def _repetition(train: Facts, texts: Texts, context: Context) -> str:
    """What to say about repeated trigrams, "" if there are few."""
    _, distinct = np.unique(train.row, return_index=True)
    # By hash, so that neither the order of the rows nor a random state decides which rows are looked at.
    sample = distinct[np.argsort(mix(train.row[distinct]), kind="stable")[:SAMPLE]]
    words, _ = strip(read_words([input_text(texts(int(i))) for i in sample]), context.templates)
    hashes, whole = ngrams(words, _TRIGRAM)
    total = int(whole.sum())
    ratio = len(np.unique(hashes[whole])) / max(total, 1)
    if total < _LEAST_TRIGRAMS or ratio >= _LEAST_DISTINCT:
        return ""
    return f"of {total} three-word phrases in {len(sample)} inputs only {ratio:.0%} are distinct"


def _form(train: Facts, texts: Texts, context: Context) -> str:
    """What to say about a form that most inputs fill, "" if there is none."""
    filled = np.flatnonzero((train.gaps >= 2) & (train.gap_words * 2 < train.input_words))
    if not filled.size:
        return ""
    _, first, counts = np.unique(train.skeleton[filled], return_index=True, return_counts=True)
    top = int(np.argmax(counts))
    share = counts[top] / len(train)
    if share <= _TOP_SHARE:
        return ""
    return f'{share:.0%} of the inputs fill one form ("{_outline(texts, int(filled[first[top]]), context)}")'


def _outline(texts: Texts, index: int, context: Context) -> str:
    """The words of the form, with dots for its gaps."""
    text = input_text(texts(index))
    words = read_words([text])
    form = member(words.hashes, context.form)
    spans = zip(form, words.begin.tolist(), words.end.tolist(), strict=True)
    parts = [text[begin:end] if known else "..." for known, begin, end in spans]
    once = [part for i, part in enumerate(parts) if part != "..." or i == 0 or parts[i - 1] != "..."]
    return " ".join(once[:20])


def _lengths(train: Facts, holdout: Facts, name: str) -> str:
    from scipy.stats import ks_2samp

    column: Callable[[Facts], Indices] = lambda facts: getattr(facts, f"{name}_words")  # noqa: E731
    mine, theirs = column(train), column(holdout)
    test = ks_2samp(mine, theirs)
    if test.statistic < _LENGTH_DISTANCE or test.pvalue > _CHANCE:
        return ""
    return (
        f"training {name}s have {np.median(mine):.0f} words, those of the hold-out {np.median(theirs):.0f} "
        f"(medians; distance {test.statistic:.2f})"
    )


def _vocabulary(train: Facts, holdout: Facts) -> str:
    """What to say about words, "" while their distance is what two draws from one text have."""
    mine, theirs = train.unigrams, holdout.unigrams
    if not (mine.sum() and theirs.sum()):
        return ""
    distance = _jensen_shannon(mine, theirs)
    pooled = mine / mine.sum() + theirs / theirs.sum()
    random = np.random.Generator(np.random.PCG64(_SEED))
    drawn = [random.multinomial(int(side.sum()), pooled / 2) for side in (mine, theirs)]
    expected = _jensen_shannon(*drawn)
    if distance < expected + _WORDS_DISTANCE:
        return ""
    return f"the words differ (Jensen-Shannon distance {distance:.2f}, by chance {expected:.2f})"


def _jensen_shannon(left: np.ndarray, right: np.ndarray) -> float:
    """The distance (root of the divergence in bits) of two counts, 0 to 1."""
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(left, right, base=2))
