"""On how many GPUs the engine can score a base: vLLM 0.32 divides it among those of one node.

Sizes are bytes. The base is served in 16-bit types whatever the method: QLoRA's is not quantised there. The
engine shortens its context to what fits (`--max-model-len -1`), so room for rows of this run is enough.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_trainer.base.config import BaseConfig
from finetune_trainer.base.shape import ModelShape
from finetune_trainer.planning.layouts import Gpu
from finetune_trainer.planning.memory import CONTEXT, GIB

# vLLM's defaults (config/cache.py, engine/arg_utils.py): its share of a GPU; of how many tokens and sequences
# a batch is at most, on large GPUs and others.
_SHARE = 0.92
_LARGE_GPU_GIB = 70
_BATCHED = {True: (8192, 1024), False: (2048, 256)}
_CUDA_GRAPHS = 1_000_000_000  # assumed
_AT_ONCE = 4  # rows; with fewer the engine would mostly wait for memory
_LATENT = 576  # elements of a token and layer under multi-head latent attention: 512 and 64 for positions
_VOCABULARY_STEP = 64  # what vLLM pads a vocabulary to a multiple of
_MOST_PER_NODE = 8


@dataclass(frozen=True)
class Served:
    """A base as the engine holds it: the weights of its `adapter`, the tokens of the `longest` row."""

    config: BaseConfig
    shape: ModelShape
    adapter: int
    longest: int


@dataclass(frozen=True)
class Scoring:
    """The fewest GPUs that the engine needs, of a kind, and what it takes of each of them."""

    gpus: int
    gpu: Gpu
    bytes: float

    @property
    def limit(self) -> float:
        """What the engine may take of each."""
        return _SHARE * self.gpu.memory_gib * GIB


@dataclass(frozen=True)
class NoScoring:
    """Why the engine cannot hold a base, with what helps."""

    message: str


def plan_scoring(served: Served, gpu: Gpu, most: int, others: tuple[Gpu, ...] = ()) -> Scoring | NoScoring:
    """The fewest of at most `most` GPUs of a node; `others` are other kinds, for suggestions."""
    return next(_fitting(served, gpu, most), None) or NoScoring(_refusal(served, gpu, most, others))


def engine_bytes(served: Served, gpu: Gpu, gpus: int) -> float:
    """What the engine takes of each of so many GPUs: weights, keys and values, and what a batch needs.

    An embedding or head counts once more where logits are put together, in fp32 and sorted. Parts beside the
    language model are not divided.
    """
    shape, (tokens, sequences) = served.shape, _BATCHED[gpu.memory_gib >= _LARGE_GPU_GIB]
    weights = 2 * (shape.language_parameters / gpus + shape.beside + served.adapter)
    activations = 2 * tokens * (8 * shape.hidden + 3 * shape.feed_forward / gpus)
    logits = 3 * 4 * sequences * shape.vocab
    kept = _AT_ONCE * served.longest * token_bytes(served, gpus)
    return weights + kept + max(activations, logits) + CONTEXT + _CUDA_GRAPHS


def token_bytes(served: Served, gpus: int) -> int:
    """Keys and values of one token on each of so many GPUs; a head that they outnumber is kept by several."""
    shape = served.shape
    heads = max(1, shape.kv_heads // gpus)
    elements = _LATENT if _is_latent(served.config) else 2 * heads * shape.head_dim
    return 2 * shape.layers * elements


def divisible(served: Served, gpus: int) -> bool:
    """Whether vLLM can divide the base: heads, feed-forward parts and the padded vocabulary must share out.

    Heads of keys and values may be fewer than GPUs, if each goes to as many (QKVParallelLinear).
    """
    config, shape = served.config, served.shape
    keys = shape.kv_heads
    padded = -(-shape.vocab // _VOCABULARY_STEP) * _VOCABULARY_STEP
    width = config.expert_intermediate if shape.experts else shape.feed_forward
    shared = _is_latent(config) or keys % gpus == 0 or gpus % keys == 0
    return shared and not any(size % gpus for size in (shape.heads, padded, width or gpus))


def _is_latent(config: BaseConfig) -> bool:
    return "kv_lora_rank" in config.irregular


def _fitting(served: Served, gpu: Gpu, most: int, least: int = 1) -> Iterator[Scoring]:
    for gpus in range(least, most + 1):
        found = Scoring(gpus, gpu, engine_bytes(served, gpu, gpus))
        if divisible(served, gpus) and found.bytes <= found.limit:
            yield found


def _refusal(served: Served, gpu: Gpu, most: int, others: tuple[Gpu, ...]) -> str:
    gpus = max(count for count in range(1, most + 1) if divisible(served, count))
    need, may = engine_bytes(served, gpu, gpus) / GIB, _SHARE * gpu.memory_gib
    where = f"each of {gpus} GPUs" if gpus > 1 else "one GPU"
    text = f"The engine that scores the base and the tuned model needs {need:.1f} GiB on {where}, of which it"
    helps = ", or ".join([*_larger(served, gpu, most, others), _WITHOUT])
    return f"{text} may use {may:.1f} GiB; {helps}."


_WITHOUT = "remove spec.evaluation.dataset and add EvalMissing to spec.evaluation.accept"


def _larger(served: Served, gpu: Gpu, most: int, others: tuple[Gpu, ...]) -> Iterator[str]:
    """More GPUs of a node, another kind: the first of each that holds the base."""
    if more := next(_fitting(served, gpu, _MOST_PER_NODE, most + 1), None):
        yield f"set resources.gpusPerNode: {more.gpus}"
    for other in sorted(others, key=lambda kind: kind.memory_gib):
        if next(_fitting(served, other, most), None):
            yield f"set resources.gpuType: {other.name}"
            return
