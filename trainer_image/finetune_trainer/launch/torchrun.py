"""The command line of torchrun, from what the operator puts into the environment."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.errors import UserError

MASTER_PORT = 29500


@dataclass(frozen=True)
class Gang:
    """This pod's place among the pods that train together."""

    nodes: int
    processes: int
    node_rank: int
    master_addr: str
    master_port: int = MASTER_PORT

    @property
    def first(self) -> bool:
        """Whether this pod reports for the whole gang."""
        return self.node_rank == 0


def read_gang(environment: Mapping[str, str], default_processes: Callable[[], int]) -> Gang:
    """FT_NODES, FT_PROCESSES, JOB_COMPLETION_INDEX and FT_MASTER_ADDR; UserError when one is wrong.

    The operator leaves out FT_PROCESSES where the job does not say how many.
    """
    nodes = _number(environment, "FT_NODES", 1)
    given = "FT_PROCESSES" in environment
    processes = _number(environment, "FT_PROCESSES", 1) if given else default_processes()
    rank = _number(environment, "JOB_COMPLETION_INDEX", 0)
    address = environment.get("FT_MASTER_ADDR", "127.0.0.1" if nodes == 1 else "")
    if not address or nodes < 1 or processes < 1 or not 0 <= rank < nodes:
        raise UserError(
            f"The pod's environment does not describe a gang (FT_NODES={nodes}, FT_PROCESSES={processes}, "
            f"JOB_COMPLETION_INDEX={rank}, FT_MASTER_ADDR={address!r}); the operator sets it."
        )
    return Gang(nodes, processes, rank, address, _number(environment, "FT_MASTER_PORT", MASTER_PORT))


def command(gang: Gang, job: Path, workspace: Path, outcomes: Path) -> list[str]:
    """Run the worker module under torchrun; never restarted here, since the operator decides on attempts."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(gang.nodes), "--nproc-per-node", str(gang.processes)),
        *("--node-rank", str(gang.node_rank)),
        *("--master-addr", gang.master_addr, "--master-port", str(gang.master_port)),
        *("--max-restarts", "0"),
        *("-m", "finetune_trainer.launch.worker"),
        *("--job", str(job), "--workspace", str(workspace), "--outcomes", str(outcomes)),
    ]


def worker_environment(environment: Mapping[str, str], processes: int, cores: int) -> dict[str, str]:
    """The pod's environment, with the cores shared out and no way to the network's model hubs.

    Threads sleep at barriers instead of spinning: on two cores that others use too, spinning made a step
    more than six times slower; on idle cores it gains little. CUDA's memory grows in segments: micro-batches
    differ in size, and with blocks of fixed size an 8B LoRA held 137 GiB for tensors of 63 GiB (measured).
    """
    defaults = {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return defaults | dict(environment)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"{name} is {text!r}; it must be a number, which the operator sets.")
    return int(text)
