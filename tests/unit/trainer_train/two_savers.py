"""Two processes that save and resume together, for torchrun: ROOT. Each writes ROOT/rank-N.json.

Rank 1 damages a file of the newer checkpoint, and rank 0 ends while rank 1 waits for it.
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed
from transformers import TrainerControl, TrainerState

from finetune_trainer.training import checkpoints
from finetune_trainer.training.callbacks import CheckpointCallback, Speed
from finetune_trainer.training.checkpoints import Sharding
from finetune_trainer.training.resuming import find_start
from finetune_trainer.training.sharding import keep_from_compiling, longest_wait, start_group
from finetune_trainer.training.signals import SaveClock, StopRequest, run_in_first, wait_for_all

RANK = int(os.environ["RANK"])
CPU = torch.device("cpu")
SIZES = {"state-0": 3000, "state-1": 4000, "trainer_state": 500}


def timeout(group: Any) -> float:
    """The seconds that a collective of the group may take."""
    waiting: timedelta = group._get_backend(CPU).options._timeout
    return waiting.total_seconds()


def save(folder: Path, step: int) -> None:
    """Each process writes its state, the first one also what there is once."""
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    for name in [f"state-{RANK}", *(["trainer_state"] if RANK == 0 else [])]:
        (checkpoint / name).write_bytes(bytes(SIZES[name]))
    clock = SaveClock(300, time.monotonic)
    callback = CheckpointCallback("key", Sharding(2, 2), StopRequest(), clock, Speed([1, 1]))
    arguments = SimpleNamespace(process_index=RANK, output_dir=str(folder), device=CPU)
    callback.on_save(arguments, TrainerState(global_step=step, max_steps=2), TrainerControl())


def names_read(read: list[Path]) -> list[str]:
    """The files that were read since the last call."""
    names = [path.name for path in read]
    read.clear()
    return names


def main(root: Path) -> None:
    """Save twice, damage the newer one, resume, and lose a process."""
    distributed.init_process_group("gloo")
    keep_from_compiling()
    wait = longest_wait(980 * 10**9)
    start_group(SimpleNamespace(use_cpu=True), wait)  # type: ignore[arg-type]
    told: dict[str, Any] = {"timeouts": [timeout(distributed.group.WORLD), timeout(distributed.new_group())]}
    read: list[Path] = []
    digest = checkpoints._digest
    checkpoints._digest = lambda path: (read.append(path), digest(path))[1]  # type: ignore[func-returns-value]
    save(root, 1)
    told["saving"] = names_read(read)
    save(root, 2)
    names_read(read)
    if RANK == 1:
        (root / "checkpoint-2" / "state-0").write_bytes(bytes([1] * SIZES["state-0"]))
    wait_for_all()
    start = find_start(root, "key", RANK, Sharding(2, 2))
    told |= {"resuming": names_read(read), "step": start.step, "skipped": start.skipped}
    if RANK == 0:
        (root / "rank-0.json").write_text(json.dumps(told))
    begun = time.monotonic()
    try:
        run_in_first(lambda: os._exit(0), wait)
    except RuntimeError as error:
        told |= {"noticed": str(error), "noticed_after": time.monotonic() - begun}
    (root / "rank-1.json").write_text(json.dumps(told))
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
