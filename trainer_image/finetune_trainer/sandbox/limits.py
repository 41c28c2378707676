"""What one program may use."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Wall time in seconds, address space, the largest file and printed text in bytes, and open files."""

    seconds: float = 10.0
    memory: int = 512 * MIB
    file: int = 16 * MIB
    printed: int = MIB
    open_files: int = 64

    @property
    def processor_seconds(self) -> int:
        """Time on the processor, at most: a second thread must not double the wall time."""
        return int(self.seconds) + 1
