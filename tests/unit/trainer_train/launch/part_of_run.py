"""A training process that stops after a step, for torchrun: ROOT METHOD ZERO_STAGE LAST_STEP PART.

Rank 0 writes the losses of its steps, and the step that it resumed from, to ROOT/PART.json.
"""

import json
import os
import sys
from pathlib import Path

from finetune_trainer.launch.worker import end
from finetune_trainer.training.callbacks import StepReport
from finetune_trainer.training.core import train
from finetune_trainer.training.plan import Execution, Folders, Hardware, LoraPlan, TrainPlan
from finetune_trainer.training.signals import StopRequest


def main(root: Path, method: str, zero_stage: int, last: int, part: str) -> None:
    """Train ROOT/model on ROOT/train.arrow, with checkpoints and output in ROOT."""
    stop, losses, messages = StopRequest(), {}, []

    def report(done: StepReport) -> None:
        if done.step is None:
            return
        messages.append(done.message)
        if done.loss is not None:
            losses[done.step] = done.loss
        # Only one process is asked to stop; the step in which that happens is the last one for all.
        stop.received = os.environ["RANK"] == "0" and done.step >= last - 1

    lora = LoraPlan(8, 16) if method == "LoRA" else None
    plan = TrainPlan(2, 1e-3, 8, 17, lora, Execution(1024, zero_stage=zero_stage))
    folders = Folders(root / "model", root / "train.arrow", root / "checkpoints", root / "output")
    outcome = train(plan, folders, "key", stop, report, Hardware(cuda=False, precision="fp32"))
    if os.environ["RANK"] == "0":
        document = {"losses": losses, "resumed": outcome.resumed_from, "message": messages[-1]}
        (root / f"{part}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    end(0)
