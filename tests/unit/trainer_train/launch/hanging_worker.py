"""The train stage whose rank 1 never ends its eighth step.

Started as process 1 it lets torchrun start this file again as each worker.
"""

import os
import sys
import threading
from typing import Any

from finetune_trainer.__main__ import main
from finetune_trainer.launch import gang, worker
from finetune_trainer.training import callbacks, core
from tests.unit.trainer_train.launch.frequent_saves import started_again


class Stuck(callbacks.DivergenceCallback):
    """Waits in rank 1 for what does not come, as a collective would."""

    def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Look at the loss as ever, then wait."""
        super().on_log(args, state, control, **rest)
        if os.environ["RANK"] == "1" and state.global_step == 8:
            threading.Event().wait()


if __name__ == "__main__":
    gang.command = started_again(__file__)
    core.DivergenceCallback = Stuck
    sys.exit(worker.main() if "RANK" in os.environ else main(sys.argv[1:]))
