"""API keys: every file of the mounted Secret holds one accepted key."""

import hmac
import logging
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

logger = logging.getLogger(__name__)
_Signature = tuple[tuple[str, int, int], ...]


def accepted(header: str | None, digests: Iterable[bytes]) -> bool:
    """Whether an Authorization header carries one of the keys, given by their SHA-256.

    All keys are compared, each in constant time, so the answer's timing says nothing about any of them.
    """
    scheme, _, key = (header or "").partition(" ")
    offered = sha256(key.strip().encode()).digest()
    matches = [hmac.compare_digest(offered, digest) for digest in digests]
    return any(matches) and scheme.lower() == "bearer" and key.strip() != ""


class KeyRing:
    """The keys in force. `folder` None means the server is open; an empty folder accepts nobody."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._signature: _Signature = ()
        self._digests: tuple[bytes, ...] = ()
        self.refresh()

    def accepts(self, header: str | None) -> bool:
        """Whether a request with this Authorization header may proceed."""
        return self._folder is None or accepted(header, self._digests)

    def refresh(self) -> None:
        """Read the files again when any of them changed (the kubelet swaps them when the Secret does)."""
        if self._folder is None:
            return
        try:
            self._read(_files(self._folder))
        except (OSError, UnicodeDecodeError):
            # A swap under our hands; the keys stay as they are until the next refresh.
            logger.warning("API keys cannot be read; the previous ones stay in force")

    def _read(self, files: list[Path]) -> None:
        stats = [(path.name, path.stat()) for path in files]
        signature = tuple((name, stat.st_mtime_ns, stat.st_ino) for name, stat in stats)
        if signature != self._signature:
            keys = [path.read_text().strip() for path in files]
            self._digests = tuple(sha256(key.encode()).digest() for key in keys if key)
            self._signature = signature


def _files(folder: Path) -> list[Path]:
    """Keys of a Secret volume; the kubelet's own entries start with two dots."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".."))
