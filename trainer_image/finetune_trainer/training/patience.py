"""How long a training process may take for what it does before it counts as hung; all times are seconds.

A step is known by those before it. What happens once (loading, the first steps, rewriting a checkpoint) is
bounded by what is moved and computed, at the speed of slow volumes and a tenth or less of a processor's: a
run that is slow must never be taken for one that hangs.
"""

from dataclasses import dataclass

STARTING = 1800.0  # imports, connecting the processes, kernels and layers that are compiled
SLOW_VOLUME = 200e6  # bytes per second of a slow network volume, as the operator's grace period assumes
_STEPS = 20
# Times a checkpoint's bytes: checked and loaded; rewritten in four passes (resuming.py) and loaded.
_RESUMED, _REWRITTEN = 2, 5
# Operations per second of a GPU and of a process on the CPU; measured were 4e14 on an H200, 2.5e11 on a core.
_SLOW_GPU, _SLOW_CPU = 1e13, 2e10
_OPERATIONS_PER_BYTE = 3  # for each token: 6 for each weight, of two bytes


@dataclass(frozen=True)
class Patience:
    """The limits of one run: never shorter than `at_least`; `nodes` read the base from one volume.

    `base_bytes` and `checkpoint_bytes` are sizes on the disk, `processes` those of all nodes.
    """

    at_least: float
    base_bytes: int
    checkpoint_bytes: int
    processes: int = 1
    nodes: int = 1
    cuda: bool = False

    @property
    def loading(self) -> float:
        """From the start until the base is loaded."""
        return self._once(self.nodes * self.base_bytes)

    @property
    def resuming(self) -> float:
        """From then until the first step begins."""
        return self._once(_RESUMED * self.checkpoint_bytes)

    @property
    def rewriting(self) -> float:
        """The same from when a checkpoint is rewritten for another number of processes."""
        return self._once(_REWRITTEN * self.checkpoint_bytes)

    @property
    def finishing(self) -> float:
        """From the last step until the output is written, which is no larger than base and checkpoint."""
        return self._once(self.base_bytes + self.checkpoint_bytes)

    def step(self, usual: float | None, saved: float | None, tokens: int) -> float:
        """From the end of a step to that of the next, and a checkpoint between them.

        `usual` is what a step takes, None as long as too few are measured: then the largest step's `tokens`
        count. `saved` is what the last checkpoint took, None before there was one.
        """
        saving = 2 * (self.checkpoint_bytes / SLOW_VOLUME if saved is None else saved)
        if usual is not None:
            return max(self.at_least, _STEPS * usual) + saving
        speed = self.processes * (_SLOW_GPU if self.cuda else _SLOW_CPU)
        return self._once(0) + saving + _OPERATIONS_PER_BYTE * self.base_bytes * tokens / speed

    def _once(self, moved: int) -> float:
        return max(self.at_least, STARTING) + moved / SLOW_VOLUME
