"""What a job fixes of its memory plan."""

from collections.abc import Iterable

from finetune_trainer.contracts import GpuSpec, Spec, TrainingSpec
from finetune_trainer.planning.candidates import Given, Gpu, Request
from finetune_trainer.planning.memory import Offload
from finetune_trainer.planning.shape import ModelShape

_OFFLOADS: dict[str, Offload] = {"None": "none", "Optimizer": "optimizer", "All": "all"}


def recomputes(training: TrainingSpec) -> bool | None:
    """Whether a job wants its activations recomputed; None leaves it to the plan."""
    wanted = training.gradient_checkpointing
    return None if wanted is None else wanted == "Enabled"


def alternatives(others: Iterable[GpuSpec]) -> tuple[Gpu, ...]:
    """Other GPU types as the plan knows them."""
    return tuple(Gpu(other.memory_gib, other.name) for other in others)


def request_for(
    spec: Spec, shape: ModelShape, gpu: Gpu, *, rank: int | None, longest: int, rows: int
) -> Request:
    """A job on GPUs of one kind: `longest` row in tokens, `rows` per optimizer step over all of them.

    `rank` is the adapter's in force, None for method Full.
    """
    gpus = spec.resources.processes // spec.resources.nodes
    given = _given(spec, rank)
    return Request(shape, given, gpu, longest, rows, gpus_per_node=gpus, nodes=spec.resources.nodes)


def _given(spec: Spec, rank: int | None) -> Given:
    training = spec.training or TrainingSpec()
    return Given(
        method=spec.method,
        rank=rank,
        zero_stage=training.zero_stage,
        offload=_OFFLOADS[training.offload] if training.offload else None,
        checkpointing=recomputes(training),
        micro_batch_tokens=training.micro_batch_tokens,
    )
