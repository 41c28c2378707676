"""All rules about a data set as a whole, in the order of the reference."""

from collections.abc import Sequence

from finetune_trainer.contracts import GraderSpec
from finetune_trainer.data import holdout as holdout_rules
from finetune_trainer.data.corpus import contradictions, duplicates, leaks, size, variety
from finetune_trainer.data.corpus.duplicates import Alike
from finetune_trainer.data.corpus.facts import Context, Facts
from finetune_trainer.data.corpus.texts import Texts
from finetune_trainer.data.findings import Finding, present
from finetune_trainer.data.holdout import HoldoutRow


def corpus_findings(
    train: Facts, texts: Texts, context: Context, near: Alike, epochs: float
) -> list[Finding]:
    """Rules 28 to 35 about the training rows; `texts` gives the rows that `train` measured, by place.

    `near` is `duplicates.alike` of the same rows.
    """
    return present(
        [
            size.too_few(train),
            size.data_band(train),
            size.epochs_bound(train, epochs),
            duplicates.exact_duplicate(train),
            duplicates.near_duplicate(train, near),
            variety.low_variety(train, texts, context),
            contradictions.contradiction(train, texts, context),
            contradictions.answer_conflict_format(train),
        ]
    )


def holdout_findings(
    train: Facts,
    texts: Texts,
    holdout: Sequence[HoldoutRow],
    measured: Facts,
    context: Context,
    graders: Sequence[GraderSpec],
) -> list[Finding]:
    """Rules 36 to 39 and 41 to 44 about the hold-out; `measured` are the facts of its rows (`held_out`)."""
    return present(
        [
            leaks.leak_exact(train, measured),
            *leaks.leak_near(train, texts, holdout, measured, context),
            leaks.leak_ngram(train, holdout),
            leaks.leak_group(train, measured),
            holdout_rules.eval_size(holdout),
            holdout_rules.eval_no_reference(holdout, graders),
            holdout_rules.duplicate_ids(holdout),
            holdout_rules.eval_reference_fails(holdout, graders),
            variety.distribution_shift(train, measured),
        ],
        "holdout",
    )
