"""The base with better prompts, beside itself and the tuned model, as pure functions of their scores."""

from collections.abc import Mapping

from finetune_trainer.gate.statistics import Interval


def best_rival(base: Interval | None, rivals: Mapping[str, Interval]) -> str | None:
    """The rival that scores highest, if it beats the base as it is."""
    best = max(rivals, key=lambda name: rivals[name].score, default=None)
    if best is None or (base is not None and rivals[best].score <= base.score):
        return None
    return best


def prompt_alone(base: Interval | None, tuned: Interval | None, rivals: Mapping[str, Interval]) -> str | None:
    """What to say where the tuned model is not clearly better than the base with its best prompt.

    Status, report and model card repeat this sentence.
    """
    best = best_rival(base, rivals)
    if best is None or tuned is None or rivals[best].score < tuned.low:
        return None
    found = rivals[best]
    scores = f"{100 * found.score:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return (
        f"With the prompt {best} the base alone scores {scores}, not clearly less than the tuned model: the "
        "prompt may be enough."
    )
