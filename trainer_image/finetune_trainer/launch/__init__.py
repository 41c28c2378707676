"""Process 1 of a train pod: torchrun as a child, its workers' outcome as ours."""

from finetune_trainer.launch.gang import main, run

__all__ = ["main", "run"]
