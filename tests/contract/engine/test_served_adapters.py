"""What the trainer knows of the engine's models is what their classes say."""

import pytest

from dev.served_adapters import served_adapters
from finetune_trainer.base import engine

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def test_the_trainer_knows_what_vllm_says_of_adapters() -> None:
    assert engine.served_adapters() == served_adapters(), "run make generate"
