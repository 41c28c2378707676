"""The engine tells how likely a given token is, of the base and of an adapter at once, as transformers computes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.scoring.client import Engine, all_of, on_socket

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPT, ANSWER = [1, 5, 9, 7, 12], [6, 3, 8, 10]


def expected(model: Any) -> list[float]:
    """The log-probabilities of the answer's tokens by transformers."""
    import torch

    with torch.no_grad():
        chances = model(torch.tensor([PROMPT + ANSWER])).logits[0].float().log_softmax(-1)
    return [float(chances[len(PROMPT) - 1 + place, token]) for place, token in enumerate(ANSWER)]


async def told(engine: Engine, model: str) -> list[float]:
    """The same by the engine."""
    places = range(len(ANSWER))
    return await all_of(
        engine.log_probability(model, [*PROMPT, *ANSWER[:place]], ANSWER[place]) for place in places
    )


async def test_the_likelihood_of_a_token_is_that_of_transformers(
    engine_socket: Path, base_model: Path, make_adapter: Callable[..., str], tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    make_adapter(tmp_path / "adapter", seed=11)
    base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
    async with Engine(on_socket(engine_socket)) as engine:
        await engine.wait_ready()
        await engine.load_adapter("likely", tmp_path / "adapter")
        name = await engine.base_name()
        plain, tuned = await all_of([told(engine, name), told(engine, "likely")])
    assert plain == pytest.approx(expected(base), abs=0.1)
    assert tuned == pytest.approx(expected(PeftModel.from_pretrained(base, tmp_path / "adapter")), abs=0.1)
    assert plain != pytest.approx(tuned, abs=0.1), "else the test could not tell one from the other"
