"""torch.compile for long runs: what compiling costs (about a minute) must come back.

It fuses what lies between the products of matrices: norms, rotations, activations, the adapter's additions.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_trainer.training.callbacks import Speed
from finetune_trainer.training.plan import Execution
from finetune_trainer.training.signals import maximum

_PAYS_FROM_SECONDS = 20 * 60.0
_MEASURED_STEPS = 3
_log = logging.getLogger(__name__)


def compiling_pays(seconds_left: float, execution: Execution) -> bool:
    """Whether to compile the layers of a run that would go on so long.

    Not with ZeRO stage 3, whose hooks collect each module's weights in the middle of a layer, nor with
    selective gradient checkpointing, which looks at the single operations of a layer.
    """
    whole_layers = execution.zero_stage < 3 and execution.gradient_checkpointing != "Selective"
    return seconds_left > _PAYS_FROM_SECONDS and whole_layers


class CompileCallback(TrainerCallback):
    """Compiles the decoder's layers once the first steps show that the run is long.

    To be added after the callback that marks the steps for `speed`.
    """

    def __init__(self, execution: Execution, cache: Path, speed: Speed) -> None:
        self._execution, self._cache, self._speed = execution, cache, speed
        self._decided = False

    def on_log(
        self, args: Any, _state: TrainerState, _control: TrainerControl, *, model: nn.Module, **_: Any
    ) -> None:
        """Decide when enough steps are measured, for all processes alike."""
        if self._decided or self._speed.measured_steps < _MEASURED_STEPS:
            return
        self._decided = True
        pays = compiling_pays(self._speed.seconds_left or 0.0, self._execution)
        if maximum(pays, args.device):  # the clocks differ, and all wait for the slowest
            compile_layers(model, self._cache)
            self._speed.leave_out_next()


def compile_layers(model: nn.Module, cache: Path) -> None:
    """Let torch compile each decoder layer when it is called next, for any number of tokens.

    `cache` keeps the code for another attempt. What cannot be compiled (no C++ compiler, an operation that
    inductor lacks) runs as before, with a warning in the log.
    """
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    layers = list(_layers(model))
    _log.info("compiling the model's %s layers", len(layers))
    for layer in layers:
        layer.compile(dynamic=True)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
