"""Whether an adapter changes what the engine says, so that it is the tuned model that is scored."""

from collections.abc import Sequence

from finetune_trainer.errors import UserError
from finetune_trainer.scoring.client import Engine, Reading, Refused
from finetune_trainer.scoring.rows import Question

# As the agent's probe: far below any trained adapter (tenths and more), far above how kernels that add
# a zero matrix round.
SMALLEST_EFFECT = 1e-4
_PROBES = 3


async def check_effect(engine: Engine, base: str, tuned: str, questions: Sequence[Question]) -> None:
    """UserError when the adapter moves no probability: it was not trained, or not applied.

    Equal answers alone would not prove it; equal log-probabilities do. Nothing is said where the engine
    refuses every question.
    """
    read = 0
    for question in questions:
        try:
            before = await engine.reading(base, question.prompt)
            after = await engine.reading(tuned, question.prompt)
        except Refused:
            continue  # of this one row, which will be ungraded
        if difference(before, after) > SMALLEST_EFFECT:
            return
        read += 1
        if read == _PROBES:
            break
    if not read:
        return
    raise UserError(
        "The adapter changes nothing: base and tuned model give the same probabilities; raise "
        "training.learningRate or training.epochs."
    )


def difference(before: Reading, after: Reading) -> float:
    """Mean distance of the log-probabilities; infinite when the answers part."""
    if [token for token, _ in before] != [token for token, _ in after]:
        return float("inf")
    gaps = [abs(one - other) for (_, one), (_, other) in zip(before, after, strict=True)]
    return sum(gaps) / max(len(gaps), 1)
