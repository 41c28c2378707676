"""Resuming with another number of processes than the checkpoint was saved by.

Without ZeRO every process holds the whole optimizer state, so any number can go on. ZeRO's shards fit one
number only; DeepSpeed's universal form of them, one file per parameter and state, fits every number. What a
step learns from does not depend on the number (batching.py), and nothing in it is random.
"""

import logging
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.training.checkpoints import Sharding

_SUFFIX = "_universal"
_log = logging.getLogger(__name__)


def needs_resharding(saved: Sharding, now: Sharding) -> bool:
    """Whether the shards must be rewritten first; UserError where DeepSpeed cannot do that."""
    if saved.zero_stage != now.zero_stage:
        raise UserError(
            f"The checkpoint was saved by {saved.processes} processes under ZeRO stage {saved.zero_stage}; "
            f"{now.processes} processes under stage {now.zero_stage} cannot resume it, and it is kept: a run "
            f"with spec.training.zeroStage: {saved.zero_stage} on this volume (spec.workspace.claimName) can."
        )
    return now.zero_stage > 0 and saved.processes != now.processes


def write_universal(checkpoint: Path) -> None:
    """Write the universal form beside the shards: of the same size, and twice that while it is made."""
    from deepspeed.checkpoint import ds_to_universal

    _log.info("%s is rewritten for another number of processes", checkpoint.name)
    remove_universal(checkpoint)
    shards = checkpoint / (checkpoint / "latest").read_text(encoding="utf-8").strip()
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    universal = shards.with_name(shards.name + _SUFFIX)
    try:
        ds_to_universal.main(
            Namespace(
                input_folder=str(shards),
                output_folder=str(universal),
                inject_missing_state=True,  # only tensor and pipeline parallelism would add something
                **options,
            )
        )
    except BaseException:
        remove_universal(checkpoint)
        raise


def remove_universal(checkpoint: Path) -> None:
    """Free the space of the universal form."""
    for path in checkpoint.glob(f"*{_SUFFIX}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def separate_step_counts(optimizer: Any) -> None:
    """Give each parameter group a step count of its own, inside all wrappers around torch's optimizer.

    DeepSpeed (0.19.8) restores those of ZeRO stage 3 from the universal form as one tensor, which every group
    would increment: Adam's bias correction would be wrong from the second step on.
    """
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    for state in optimizer.state.values():
        if "step" in state:
            state["step"] = state["step"].clone()
