"""The command line of torchrun, from what the operator puts into the environment."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.environment import number
from finetune_trainer.errors import UserError

MASTER_PORT = 29500
_RENDEZVOUS_SECONDS = 86_400
_JOINED = re.compile(r"waiting for clients\. (\d+)/\d+ clients joined")
_UNANSWERED = re.compile(r"timed out after \d+ms while trying to connect")


@dataclass(frozen=True)
class Gang:
    """This pod's place among the pods that train together; they wait so many seconds for each other."""

    nodes: int
    processes: int
    node_rank: int
    master_addr: str
    master_port: int = MASTER_PORT
    rendezvous_seconds: int = _RENDEZVOUS_SECONDS

    @property
    def first(self) -> bool:
        """Whether this pod reports for the whole gang."""
        return self.node_rank == 0


def read_gang(environment: Mapping[str, str], default_processes: Callable[[], int]) -> Gang:
    """FT_NODES, FT_PROCESSES, JOB_COMPLETION_INDEX and FT_MASTER_ADDR; UserError when one is wrong.

    The operator leaves out FT_PROCESSES where the job does not say how many. FT_RENDEZVOUS_SECONDS is as long
    as it lets a pod wait for a node.
    """
    nodes = number(environment, "FT_NODES", 1)
    given = "FT_PROCESSES" in environment
    processes = number(environment, "FT_PROCESSES", 1) if given else default_processes()
    rank = number(environment, "JOB_COMPLETION_INDEX", 0)
    address = environment.get("FT_MASTER_ADDR", "127.0.0.1" if nodes == 1 else "")
    if not address or nodes < 1 or processes < 1 or not 0 <= rank < nodes:
        raise UserError(
            f"The pod's environment does not describe a gang (FT_NODES={nodes}, FT_PROCESSES={processes}, "
            f"JOB_COMPLETION_INDEX={rank}, FT_MASTER_ADDR={address!r}); the operator sets it."
        )
    port = number(environment, "FT_MASTER_PORT", MASTER_PORT)
    wait = number(environment, "FT_RENDEZVOUS_SECONDS", _RENDEZVOUS_SECONDS)
    return Gang(nodes, processes, rank, address, port, wait)


def command(gang: Gang, job: Path, workspace: Path, outcomes: Path) -> list[str]:
    """Run the worker module under torchrun; never restarted here, since the operator decides on attempts."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(gang.nodes), "--nproc-per-node", str(gang.processes)),
        *("--node-rank", str(gang.node_rank)),
        *("--master-addr", gang.master_addr, "--master-port", str(gang.master_port)),
        *("--rdzv-conf", f"timeout={gang.rendezvous_seconds}"),
        *("--max-restarts", "0"),
        *("-m", "finetune_trainer.launch.worker"),
        *("--job", str(job), "--workspace", str(workspace), "--outcomes", str(outcomes)),
    ]


def missing_peers(error: Path, gang: Gang) -> str | None:
    """That the pods of a gang did not meet, by the error that torchrun left there; None for any other end.

    The first pod's torchrun counts who came, the others only know that it did not answer.
    """
    try:
        told = str(json.loads(error.read_bytes())["message"]["message"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    joined, wait = _JOINED.search(told), f"within {gang.rendezvous_seconds} s (unschedulableDeadlineSeconds)"
    if joined:
        came = f"{joined[1]} of {gang.nodes} training pods met {wait}"
        return f"Only {came}; `kubectl describe pod` of the others says why they did not start."
    if _UNANSWERED.search(told):
        missed = f"Training pod {gang.node_rank + 1} of {gang.nodes} could not reach the first one {wait}"
        where = f"{gang.master_addr} port {gang.master_port}"
        return f"{missed}; see that it started, and that NetworkPolicies let the pods reach {where}."
    return None


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
