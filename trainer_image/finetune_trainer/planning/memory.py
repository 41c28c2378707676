"""Memory of one GPU in bytes, part by part.

Sources: ZeRO (arXiv 1910.02054) and DeepSpeed's memory.rst for full training, where code and paper differ
the larger; the QLoRA paper (arXiv 2305.14314) for 4.127 bits per weight; FlashAttention in bf16 for
activations. Measured peaks on an H200 agree within 12 % (tests/unit/trainer_planning/test_memory.py).
"""

from dataclasses import asdict, dataclass
from typing import Literal

from finetune_trainer.planning.shape import ModelShape

Method = Literal["LoRA", "QLoRA", "Full"]
Offload = Literal["none", "optimizer", "all"]
GIB = 2**30
# What may be planned of a GPU's memory: the rest is fragmentation and what libraries take on the way.
USABLE = 0.90
_CONTEXT = 1_500_000_000  # CUDA context and NCCL buffers
_FUSED_LOSS = 1_000_000_000  # tiles of the output head: logits are never stored whole
_QUANTISED = 0.516  # bytes per weight in NF4 with double quantisation


@dataclass(frozen=True)
class Setup:
    """How a model is trained: `gpus` in all, token slots of a micro-batch, what is sharded and offloaded."""

    method: Method
    gpus: int
    tokens: int
    checkpointing: bool
    rank: int = 16
    zero_stage: int = 0
    offload: Offload = "none"


@dataclass(frozen=True)
class Memory:
    """Bytes per GPU, by what they are for.

    `base` are weights that stay or are gathered, `state` weights, gradients and optimizer of what is trained,
    `spike` what setting up the optimizer adds.
    """

    base: float
    state: float
    spike: float
    activations: float
    loss: float = _FUSED_LOSS
    context: float = _CONTEXT

    @property
    def total(self) -> float:
        """The peak."""
        return float(sum(asdict(self).values()))

    def breakdown(self) -> dict[str, float]:
        """The parts in GiB."""
        return {name: round(part / GIB, 2) for name, part in asdict(self).items()}


def memory(shape: ModelShape, setup: Setup) -> Memory:
    """What each GPU needs at its peak."""
    base, state, spike = _full(shape, setup) if setup.method == "Full" else _adapted(shape, setup)
    return Memory(base, state, spike, activations(shape, setup.tokens, checkpointing=setup.checkpointing))


def activations(shape: ModelShape, tokens: int, *, checkpointing: bool) -> float:
    """Bytes kept for the backward pass: A per token and layer, or the layers' inputs and one layer's A."""
    width = 6 * shape.hidden + shape.heads * shape.head_dim + 2 * shape.kv_heads * shape.head_dim
    per_layer = 2 * width + 8 * shape.intermediate
    if checkpointing:
        return tokens * (2 * shape.hidden * shape.layers + per_layer)
    return tokens * shape.layers * per_layer


def host_bytes(shape: ModelShape, setup: Setup) -> float:
    """Memory that offloading takes from the host for all GPUs of a node (DeepSpeed's memory.rst)."""
    parameters = shape.parameters
    if setup.offload == "none":
        return 0.0
    if setup.offload == "all":
        return 1.5 * 18 * parameters
    return 1.5 * parameters * (max(4 * setup.gpus, 16) if setup.zero_stage < 3 else 16)


def _adapted(shape: ModelShape, setup: Setup) -> tuple[float, float, float]:
    """Frozen base and fp32 adapter with gradients and two moments (16 bytes per adapter parameter)."""
    adapter = 16 * shape.adapter_parameters(setup.rank)
    if setup.method == "LoRA":
        return 2 * shape.parameters, adapter, 0.0
    linear = shape.linear_parameters
    dequantised = 2 * max(inputs * outputs for inputs, outputs in shape.layer_matrices)
    return _QUANTISED * linear + 2 * (shape.parameters - linear), adapter, dequantised


def _full(shape: ModelShape, setup: Setup) -> tuple[float, float, float]:
    p, n, gathered = shape.parameters, setup.gpus, 4 * shape.largest_layer
    if setup.offload == "all":
        return gathered, 0.0, 0.0
    if setup.offload == "optimizer":
        weights = 2 * p if setup.zero_stage < 3 else gathered + 2 * p / n
        # The optimizer's start holds the gradients' buffer a second time (dllm #9: 14.9 GiB asked for 8B).
        return weights, 0.0, 2 * p if setup.zero_stage < 3 else 2 * p / n
    if setup.zero_stage == 3:
        return gathered, 18 * p / n, 0.0
    if setup.zero_stage == 2:
        return 0.0, max(2 * p + 18 * p / n, 4 * p + 16 * p / n), 0.0
    if setup.zero_stage == 1:
        return 0.0, 4 * p + 12 * p / n if n > 1 else 18 * p, 0.0
    return 0.0, 18 * p, 0.0
