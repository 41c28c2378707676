"""What the engine cannot serve: of adapters read out of the classes of its models, not listed by hand.

engine.json is written by `python -m dev.served_adapters` from the vLLM that the serving images install, and a
contract test compares the two. An architecture that vLLM does not know is not in it and refused for nothing.
"""

import json
from functools import cache
from importlib.resources import files
from typing import TypedDict

from finetune_trainer.errors import UserError

# What vLLM 0.32 leaves out of a class, which no class says: its text-only Gemma 3n gets `per_layer_inputs`
# from nobody (model_executor/models/gemma3n.py); log-probabilities were 0.11 apart from transformers'.
_COMPUTED_WITHOUT = {"Gemma3nForCausalLM": "the embeddings of its layers"}


class Served(TypedDict):
    """`vllm` is its version; `withoutAdapters` are architectures whose class supports no LoRA at all.

    `joined` are, by architecture, layers that vLLM takes apart when it loads them: it knows adapters of their
    parts only, so one on the whole layer is refused when it is loaded.
    """

    vllm: str
    withoutAdapters: list[str]
    joined: dict[str, list[str]]


@cache
def served_adapters() -> Served:
    """What engine.json says."""
    found: Served = json.loads(files(__package__).joinpath("engine.json").read_text(encoding="utf-8"))
    return found


def refuse_unserved(architecture: str | None) -> None:
    """UserError for a base whose class in the engine supports no adapters."""
    served = served_adapters()
    if architecture in served["withoutAdapters"]:
        text = f"spec.method: vLLM {served['vllm']} serves no adapter on its own {architecture} class"
        raise UserError(f"{text}; use method Full or another base model.")


def refuse_computed_otherwise(architecture: str | None) -> None:
    """UserError for a base of which the engine computes another model than transformers trains."""
    if left_out := _COMPUTED_WITHOUT.get(architecture or ""):
        text = f"vLLM 0.32 computes a {architecture} without {left_out}"
        raise UserError(f"{text}, so it would serve another model than is trained; take another base model.")


def is_joined(layer: str, architecture: str | None) -> bool:
    """Whether a layer, given by the last part of its name, is one whose adapter the engine would refuse."""
    return layer in served_adapters()["joined"].get(architecture or "", ())
