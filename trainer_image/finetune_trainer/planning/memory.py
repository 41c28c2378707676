"""Peak memory per GPU and per host of a training run, by the table of cost-and-memory.md 6.2.

Sizes are bytes. `GIB` is 2**30, and a GPU's memory is what nvidia-smi shows, in GiB: the "80 GB" of a card
are 79.6 to 80 GiB there (81,559 to 81,920 MiB), the "141 GB" of an H200 140.4 GiB. A run fits when its
predicted peak is at most 90 % of it: what is left covers fragmentation, and the part that the driver keeps.
Peaks measured on an H200 are within 12 % of it where layers are not compiled; compiled ones take less
(tests/unit/trainer_planning/test_memory.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from finetune_trainer.base.shape import ModelShape, adapter_parameters
from finetune_trainer.contracts import GradientCheckpointing, Method, Offload
from finetune_trainer.errors import UserError

# What the trainer can run (training/sharding.py). An adapter's optimizer state is too small to shard, so its
# stage 3 is for the base; 1 and 2 would shard nothing that matters.
STAGES: Mapping[Method, tuple[int, ...]] = {"LoRA": (0, 3), "QLoRA": (0, 3), "Full": (0, 1, 2, 3)}
GIB = 2**30
FIT_SHARE = 0.90
_TIGHT_SHARE = 0.05
# CUDA context, cuBLAS workspaces and NCCL's buffers.
CONTEXT = 1_500_000_000
# TRL's fused output head works in tiles (4,096 tokens by 32,768 words) and holds no logits of a whole row.
FUSED_LOSS = 1_000_000_000
# NF4 with double quantisation: 4.127 bits per weight (Dettmers et al. 2023, QLoRA, section 3).
NF4_BYTES = 0.516
# What a process takes of its host's memory by itself: Python, torch and CUDA's libraries (assumed).
_PROCESS = 3_000_000_000
# DeepSpeed's own margin on what it keeps in the host's memory (`additional_buffer_factor`).
_HOST_FACTOR = 1.5


@dataclass(frozen=True)
class Setup:
    """What decides the memory of a run; `tokens` are the slots of a micro-batch, padding included.

    `rank` and `target_modules` (None: all) are the adapter's, None for method Full. ZeRO stage 0 is plain
    data parallelism.
    """

    method: Method
    tokens: int
    rank: int | None = None
    gpus_per_node: int = 1
    nodes: int = 1
    zero_stage: int = 0
    offload: Offload = "None"
    gradient_checkpointing: GradientCheckpointing = "Enabled"
    target_modules: tuple[str, ...] | None = None

    @property
    def gpus(self) -> int:
        """All GPUs of the run."""
        return self.gpus_per_node * self.nodes


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by what holds them; all but `host` are on each GPU and add up to `total`.

    `initialisation` is what starting takes beyond training; `host` is per node: processes, a weight at a time
    while they load, and what is offloaded.
    """

    weights: float
    gradients: float
    optimizer: float
    adapter: float
    activations: float
    loss: float
    context: float
    initialisation: float
    host: float = 0

    @property
    def total(self) -> float:
        """The peak on each GPU."""
        return sum(self.parts().values())

    def parts(self) -> dict[str, float]:
        """The parts of the peak on each GPU."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "host"}


@dataclass(frozen=True)
class _State:
    """Weights, gradients and optimizer state on each GPU, and what is offloaded to the host's memory."""

    weights: float
    gradients: float = 0
    optimizer: float = 0
    adapter: float = 0
    initialisation: float = 0  # beside the weights, before the first step
    host: float = 0


def predict(shape: ModelShape, setup: Setup) -> Memory:
    """The peak of a run; UserError for a combination that cannot be trained."""
    refusal = why_impossible(setup)
    if refusal:
        raise UserError(refusal)
    state = _state(shape, setup)
    activations = activation_bytes(shape, setup.tokens, setup.gradient_checkpointing)
    training = state.gradients + state.optimizer + activations + FUSED_LOSS
    return Memory(
        weights=state.weights,
        gradients=state.gradients,
        optimizer=state.optimizer,
        adapter=state.adapter,
        activations=activations,
        loss=FUSED_LOSS,
        context=CONTEXT,
        initialisation=max(0.0, state.initialisation - training),
        host=state.host + _loading_on_host(shape, setup),
    )


def limit(gpu_memory_gib: float) -> float:
    """The bytes of a GPU that a plan may use."""
    return FIT_SHARE * gpu_memory_gib * GIB


def fits(memory: Memory, gpu_memory_gib: float, host_memory_gib: float | None = None) -> bool:
    """Whether the peak is within 90 % of the GPU, and the host's part within 90 % of a known host."""
    enough_host = host_memory_gib is None or memory.host <= limit(host_memory_gib)
    return memory.total <= limit(gpu_memory_gib) and enough_host


def is_tight(memory: Memory, gpu_memory_gib: float) -> bool:
    """Whether the peak is within 5 % of what may be used: without compiling, predictions are within 12 %."""
    return memory.total > (1 - _TIGHT_SHARE) * limit(gpu_memory_gib)


def activation_bytes(shape: ModelShape, tokens: int, gradient_checkpointing: GradientCheckpointing) -> float:
    """What the backward pass needs of a micro-batch of `tokens`.

    Per token and layer 2 * (6h + heads*hd + 2*kv*hd) + 8*ff bytes: 16-bit inputs of norms, projections and
    FlashAttention, gate, up and their product (cost-and-memory.md 6.2; PEFT's fp32 input casts are off). With
    gradient checkpointing only each layer's input stays, and one layer is recomputed at a time (Chen et al.
    2016). Selective keeps attention's outputs too, with the fp32 logarithm of its sums per head.
    """
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = 2 * (6 * shape.hidden + attention) + 8 * shape.feed_forward
    if gradient_checkpointing == "Disabled":
        return tokens * shape.layers * layer
    kept = 2 * shape.hidden
    if gradient_checkpointing == "Selective":
        kept += 2 * shape.heads * shape.head_dim + 4 * shape.heads
    return tokens * (kept * shape.layers + layer)


def checkpoint_bytes(trained: int, *, full: bool) -> int:
    """What a checkpoint of `trained` parameters takes: fp32 weights, two Adam moments, of Full bf16 weights.

    On a CPU the weights are fp32: 2 bytes more per parameter of method Full.
    """
    return (14 if full else 12) * trained


def why_impossible(setup: Setup) -> str | None:
    """Why the libraries cannot run a setup, as a sentence; None when they can."""
    method, stage, offload = setup.method, setup.zero_stage, setup.offload
    if (setup.rank is None) != (method == "Full"):
        return f"Method {method} and rank {setup.rank} do not go together; an adapter has a rank, Full none."
    if stage not in STAGES[method]:
        return f"Method {method} has no ZeRO stage {stage}; use 0, or 3 to share the base among the GPUs."
    if offload != "None" and method != "Full":
        return f"Method {method} has too little optimizer state to offload; use offload None."
    if offload == "Optimizer" and stage < 1:
        return "Offloading the optimizer needs ZeRO stage 1, 2 or 3."
    if offload == "All" and stage != 3:
        return "Offloading weights and optimizer needs ZeRO stage 3."
    return None


def _state(shape: ModelShape, setup: Setup) -> _State:
    if setup.method == "LoRA":
        return _lora(shape, setup)
    if setup.method == "QLoRA":
        return _qlora(shape, setup)
    if setup.offload == "None":
        return _full_on_gpu(shape, setup)
    if setup.offload == "Optimizer":
        return _full_with_offloaded_optimizer(shape, setup)
    return _full_offloaded(shape, setup)


def _loading_on_host(shape: ModelShape, setup: Setup) -> float:
    """Weights are read from mapped files to the GPU, or to its part of them, one tensor at a time.

    Under zero.Init transformers joins the experts of a mixture in every process: 1.06 times its weights at
    the peak (measured on the CPU with a Qwen3-MoE of 0.4B).
    """
    joined = 2 * shape.experts.parameters if shape.experts and setup.zero_stage == 3 else 0
    return setup.gpus_per_node * (_PROCESS + 2 * max(shape.embedding, shape.largest_linear) + joined)


def _full_on_gpu(shape: ModelShape, setup: Setup) -> _State:
    """Full training, mixed precision with Adam: 2 bytes of weights, 4 of gradients, 12 of optimizer state.

    Rajbhandari et al. 2020 (ZeRO), section 3.1, with DeepSpeed's fp32 gradients: stage 0 18P; 2 the larger
    of 2P + 18P/n (its code) and 4P + 16P/n (its documentation); 3 4*P_lay + 18P/n. Stage 1 is the same code
    as stage 2, so it takes no less: the paper's 4P + 12P/n leaves out the fp32 gradients of the step. Stage 3
    builds the model under zero.Init, each GPU's part of every weight alone, so starting takes no more. P is
    the language model; other parts of a multimodal model are loaded and frozen.
    """
    p, n, frozen = shape.language_parameters, setup.gpus, 2 * shape.beside
    if setup.zero_stage == 0:
        return _State(weights=2 * p + frozen, gradients=4 * p, optimizer=12 * p)
    if setup.zero_stage in (1, 2):
        rest = max(18 * p / n, 2 * p + 16 * p / n)
        return _State(weights=2 * p + frozen, gradients=rest - 12 * p / n, optimizer=12 * p / n)
    weights = 4 * shape.largest_gathered + (2 * p + frozen) / n
    return _State(weights=weights, gradients=4 * p / n, optimizer=12 * p / n)


def _full_with_offloaded_optimizer(shape: ModelShape, setup: Setup) -> _State:
    """Weights on the GPU, optimizer and gradients on the host (Ren et al. 2021, ZeRO-Offload).

    DeepSpeed's estimates: stage 2 2P, host 1.5 P max(4n, 16); stage 3 4*P_lay + 2P/n, host 1.5*16P/nodes.
    They leave out two things. Gradients pass through the GPU on their way: 4*P_lay as in stage 3. And stages
    1 and 2 start by copying the weights into one flat buffer (2P) and their part of it once more (2P/n): an
    8B model on two 40 GB cards died there, asking for 14.9 GiB more (dllm issue 9).
    """
    p, n, frozen = shape.language_parameters, setup.gpus, 2 * shape.beside
    passing = 4 * shape.largest_gathered
    if setup.zero_stage == 3:
        host = _HOST_FACTOR * 16 * p / setup.nodes
        return _State(weights=passing + (2 * p + frozen) / n, host=host)
    kept = 2 * p if setup.zero_stage == 1 else 0
    return _State(
        weights=2 * p + frozen,
        gradients=passing + kept,
        initialisation=2 * p + 2 * p / n,
        host=_HOST_FACTOR * p * max(4 * n, 16),
    )


def _full_offloaded(shape: ModelShape, setup: Setup) -> _State:
    """ZeRO-3 with weights and optimizer on the host: 4*P_lay on the GPU, 1.5*18P/nodes on the host.

    DeepSpeed, `estimate_zero3_model_states_mem_needs`; Rajbhandari et al. 2021 (ZeRO-Infinity).
    """
    host = _HOST_FACTOR * 18 * shape.parameters / setup.nodes
    return _State(weights=4 * shape.largest_gathered, host=host)


def _lora(shape: ModelShape, setup: Setup) -> _State:
    """bf16 base, fp32 adapter with its gradient and two Adam moments: 2P + 16T (cost-and-memory.md 6.2).

    With ZeRO-3 the GPUs share both: 4*P_lay + 2P/n + 18T/n.
    """
    p, n, trained = shape.parameters, setup.gpus, _trained(shape, setup)
    if setup.zero_stage == 3:
        return _State(weights=4 * shape.largest_gathered + 2 * p / n, adapter=18 * trained / n)
    return _State(weights=2 * p, adapter=16 * trained)


def _qlora(shape: ModelShape, setup: Setup) -> _State:
    """NF4 linear layers, the rest bf16, one layer dequantised at a time, 16 bytes per adapter weight.

    Dettmers et al. 2023 (QLoRA), section 3; cost-and-memory.md 6.2. Weights are quantised while they load, a
    bf16 matrix at a time. With ZeRO-3 the GPUs share base and adapter, but transformers loads quantised
    weights outside of zero.Init: each GPU holds all of them before they are divided.
    """
    quantised, n, trained = shape.quantised, setup.gpus, _trained(shape, setup)
    base = NF4_BYTES * quantised + 2 * (shape.parameters - quantised)
    working = 2 * shape.largest_linear
    if setup.zero_stage == 0:
        loading = base + 2 * max(shape.embedding, shape.largest_linear)
        return _State(weights=base + working, adapter=16 * trained, initialisation=loading - base - working)
    gathered = 2 * max(2 * shape.embedding, base / shape.layers) + working
    adapter = 18 * trained / n
    return _State(weights=gathered + base / n, adapter=adapter, initialisation=base - base / n - gathered)


def _trained(shape: ModelShape, setup: Setup) -> int:
    return adapter_parameters(shape, setup.rank or 0, setup.target_modules)


def in_gib(size: float) -> float:
    """Bytes as GiB, rounded up to a hundredth: a plan never shows less than it needs."""
    return math.ceil(size / GIB * 100) / 100
