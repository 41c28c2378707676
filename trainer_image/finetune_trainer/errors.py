"""What can end a stage, as exceptions: the name is the reason in the result, the code the exit status.

The names are the reasons that a user reads in status, so they carry no "Error" where the reason has none.
"""

import errno
from collections.abc import Iterator
from typing import ClassVar


class StageError(Exception):
    """A stage ended for a known reason; the text is one sentence for the user."""

    reason: ClassVar[str]
    exit_code: ClassVar[int]


class UserError(StageError):
    """Data, source, destination or configuration is wrong; the text names what and how to fix it."""

    reason = "UserError"
    exit_code = 64


class DatasetChanged(StageError):  # noqa: N818
    """The prepared data no longer has the digest that was checked."""

    reason = "DatasetChanged"
    exit_code = 65


class OutOfMemory(StageError):  # noqa: N818
    """The accelerator or the container ran out of memory."""

    reason = "OutOfMemory"
    exit_code = 70


class DiskFull(StageError):  # noqa: N818
    """A volume has no space left for what the stage writes."""

    reason = "DiskFull"
    exit_code = 74


class Diverged(StageError):  # noqa: N818
    """The loss became infinite or not a number."""

    reason = "Diverged"
    exit_code = 76


class TemplateDrift(StageError):  # noqa: N818
    """The engine renders a prompt otherwise than prepare did."""

    reason = "TemplateDrift"
    exit_code = 77


class NotStored(StageError):  # noqa: N818
    """`reemit` found no stored result for the input digest."""

    reason = "NotStored"
    exit_code = 78


class Hang(StageError):  # noqa: N818
    """Nothing went on for much longer than it may take; another attempt may help."""

    reason = "Hang"
    exit_code = 79


class PeersMissing(StageError):  # noqa: N818
    """Not all pods that train together came; another attempt may find them all."""

    reason = "PeersMissing"
    exit_code = 80


class SourceUnavailableError(StageError):
    """A source did not answer; trying again may help, so the attempt counts as one of unknown cause."""

    reason = "Unknown"
    exit_code = 1


class Interrupted(BaseException):
    """SIGTERM arrived. Not an Exception, so that library code which catches those cannot swallow it.

    `checkpoint_step` is the optimizer step that was saved, None where nothing was.
    """

    reason: ClassVar[str] = "Interrupted"
    exit_code: ClassVar[int] = 75

    def __init__(self, message: str, checkpoint_step: int | None = None) -> None:
        super().__init__(message)
        self.checkpoint_step = checkpoint_step

    @property
    def summary(self) -> dict[str, int]:
        """What the result tells of it."""
        return {} if self.checkpoint_step is None else {"checkpointStep": self.checkpoint_step}


UNKNOWN_EXIT_CODE = 1
EXIT_CODES: dict[str, int] = {
    error.reason: error.exit_code
    for error in (
        *(UserError, DatasetChanged, OutOfMemory, DiskFull, Diverged, TemplateDrift, NotStored),
        *(Hang, PeersMissing),
    )
} | {Interrupted.reason: Interrupted.exit_code, "Unknown": UNKNOWN_EXIT_CODE}

# Libraries that write files outside Python (torch, safetensors) report a full volume in their own words.
_NO_SPACE = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing file",
    "unexpected pos",
)


def cause_of(error: BaseException) -> type[StageError] | None:
    """OutOfMemory or DiskFull when the error, or one that led to it, says so; else None."""
    for each in _chain(error):
        if _is_disk_full(each):
            return DiskFull
        if _is_out_of_memory(each):
            return OutOfMemory
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)  # shared memory (/dev/shm) is no disk: raising the workspace's size would not help
    return any(words in text for words in _NO_SPACE) and "shared memory" not in text and "shm" not in text


def _is_out_of_memory(error: BaseException) -> bool:
    """torch reports failed allocations as OutOfMemoryError on a GPU and as RuntimeError on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
