"""Whether the numbers in an adapter's matrices can be served: finite, not all without effect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from finetune_serving.adapter.base import BaseModules
from finetune_serving.adapter.config import Scale
from finetune_serving.adapter.matrices import Pair, counted
from finetune_serving.adapter.weights import COMPARABLE, Tensor, peak, same_values
from finetune_serving.agent.refusal import RefusedError

# The engine squares what a layer adds, in float32: beyond the root of its largest number all turns infinite.
_LARGEST_PRODUCT = 1e19


@dataclass(frozen=True)
class _Peaks:
    """The largest magnitudes in the matrices of a module, and the factor of their product."""

    a: float
    b: float
    factor: float

    @property
    def product(self) -> float:
        """The largest that one A times one B can be; 0.0 when the pair changes nothing."""
        return 0.0 if not (self.a and self.b and self.factor) else self.a * self.b * abs(self.factor)


def check_values(file: IO[bytes], pairs: Mapping[str, Pair], scales: Mapping[str, Scale]) -> None:
    """Read all matrices once; RefusedError when a number is not finite, too large, or none has an effect.

    NaN would stay behind in the engine's cache, and other adapters' requests be answered with nothing.
    """
    peaks = {
        module: _Peaks(peak(file, pair.a), peak(file, pair.b), scales[module].factor)
        for module, pair in pairs.items()
    }
    if broken := [module for module, found in peaks.items() if not math.isfinite(found.a + found.b)]:
        text = f"With NaN or infinite weights: {counted(broken, len(pairs), 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; the training diverged, train again.")
    if huge := [module for module, found in peaks.items() if found.product > _LARGEST_PRODUCT]:
        text = f"With weights too large to compute with: {counted(huge, len(pairs), 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; the training diverged, train again.")
    if not any(found.product for found in peaks.values()):
        text = "The adapter changes nothing: in every module A, B or lora_alpha is zero"
        raise RefusedError("SilentNoOp", f"{text}; check that its training ran before it was saved.")


def check_copies(file: IO[bytes], copied: Mapping[str, Tensor], base: BaseModules) -> None:
    """RefusedError when a saved embedding is not the base's own, which the engine goes on using."""
    changed = [module for module, tensor in copied.items() if _differs(file, module, tensor, base)]
    if changed:
        text = f"The engine would go on with the base's {' and '.join(changed)} instead of the adapter's own"
        raise RefusedError("UnsupportedAdapter", f"{text}; train without new tokens or whole embeddings.")


def _differs(file: IO[bytes], module: str, tensor: Tensor, base: BaseModules) -> bool:
    leaf = module.rpartition(".")[2]
    same_name = {name: found for name, found in base.stored.items() if name.rpartition(".")[2] == leaf}
    own = same_name.get(module, next(iter(same_name.values()), None))
    if own is None or own.tensor.dtype not in COMPARABLE:
        return False  # the base stores it packed or under another name: its effect must show
    if tensor.dtype not in COMPARABLE or own.tensor.shape != tensor.shape:
        return True
    with own.path.open("rb") as other:
        return not same_values(file, tensor, other, own.tensor)
