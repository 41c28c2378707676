"""Where training starts: the newest intact checkpoint, also with another number of processes than saved it.

The first process looks and deletes, each process reads a share of the files, and all decide alike.

Without ZeRO every process holds the whole optimizer state, so any number can go on. ZeRO's shards fit one
number only; DeepSpeed's universal form of them, one file per parameter and state, fits every number. What a
step learns from does not depend on the number (batching.py), and nothing in it is random.
"""

import logging
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.training.checkpoints import (
    Marker,
    Sharding,
    changed_files,
    make_room,
    newest_complete,
    read_marker,
    remove_damaged,
    remove_incomplete,
    share,
    step_of,
)
from finetune_trainer.training.sharding import longest_wait
from finetune_trainer.training.signals import gathered, run_in_first
from finetune_trainer.words import plural

_SUFFIX = "_universal"
_REWRITING = 4  # times a checkpoint's bytes: each parameter's parts are read, written, read and put together
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """Where an attempt starts: at step 0 without a checkpoint; `skipped` names the damaged ones.

    `universal` says that the checkpoint is read in DeepSpeed's universal form.
    """

    checkpoint: Path | None
    skipped: tuple[str, ...] = ()
    universal: bool = False

    @property
    def step(self) -> int:
        """The steps that are done."""
        return step_of(self.checkpoint) if self.checkpoint else 0

    @property
    def message(self) -> str:
        """What to tell while training."""
        skipped = f" from step {self.step}; damaged and skipped: {', '.join(self.skipped)}"
        return "training" + (skipped if self.skipped else "")


def find_start(
    folder: Path, key: str, rank: int, sharding: Sharding, rewriting: Callable[[], None] = lambda: None
) -> Start:
    """The start of the run of `key`, the same in every process; what no resume may take is deleted.

    `rewriting` is called before the checkpoint is rewritten for another number of processes. Collective;
    UserError where the checkpoint cannot be resumed by these processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        remove_incomplete(folder, key)
    skipped: list[str] = []
    while (found := _newest(folder, key, rank)) and (changed := _changed(*found, rank, sharding.processes)):
        if rank == 0:
            remove_damaged(found[0], changed)
        skipped.append(found[0].name)
    if found is None:
        return Start(None, tuple(skipped))
    checkpoint, marker = found
    universal = needs_resharding(marker.sharding, sharding)
    if universal:
        rewriting()
        run_in_first(partial(_rewrite, checkpoint, key), longest_wait(_REWRITING * marker.bytes))
    return Start(checkpoint, tuple(skipped), universal)


def _newest(folder: Path, key: str, rank: int) -> tuple[Path, Marker] | None:
    """What the first process sees: on a network volume another node may still see what it deleted."""
    newest = newest_complete(folder, key) if rank == 0 else None
    marker = read_marker(newest) if newest else None
    return gathered((newest, marker) if newest and marker else None)[0]


def _changed(checkpoint: Path, marker: Marker, rank: int, processes: int) -> list[str]:
    mine = changed_files(checkpoint, marker, share(marker.sizes, rank, processes))
    return sorted(chain.from_iterable(gathered(mine)))


def _rewrite(checkpoint: Path, key: str) -> None:
    make_room(checkpoint.parent, key)
    write_universal(checkpoint)


def needs_resharding(saved: Sharding, now: Sharding) -> bool:
    """Whether the shards must be rewritten first; UserError where DeepSpeed cannot do that."""
    if saved.zero_stage != now.zero_stage:
        raise UserError(
            f"The checkpoint was saved by {plural(saved.processes, 'process')} under ZeRO stage "
            f"{saved.zero_stage}; {plural(now.processes, 'process')} under stage {now.zero_stage} cannot "
            "resume it, and it is kept: a run "
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
