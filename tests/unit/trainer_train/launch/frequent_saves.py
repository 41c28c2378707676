"""The train stage with a checkpoint every half second instead of every five minutes.

Started as process 1 it lets torchrun start this file again as each worker.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer.__main__ import main
from finetune_trainer.launch import gang, worker
from finetune_trainer.launch.torchrun import Gang, command
from finetune_trainer.stages import train


def started_again(file: str) -> Callable[..., list[str]]:
    """What makes torchrun's command line, with a file in the place of the worker's module."""

    def line(pod: Gang, *paths: Path) -> list[str]:
        usual = command(pod, *paths)
        at = usual.index("finetune_trainer.launch.worker") - 1
        return [*usual[:at], file, *usual[at + 2 :]]

    return line


def often(*arguments: Any) -> Any:
    """The plan of the job, with another interval."""
    return dataclasses.replace(_read_plan(*arguments), checkpoint_seconds=0.5)


_read_plan = train.read_plan
if __name__ == "__main__":
    gang.command = started_again(__file__)
    train.read_plan = often
    sys.exit(worker.main() if "RANK" in os.environ else main(sys.argv[1:]))
