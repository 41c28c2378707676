"""API keys: every file of the mounted Secret holds one accepted key; the file's name is the caller's."""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from stat import S_ISREG

logger = logging.getLogger(__name__)
_Signature = tuple[tuple[str, int, int], ...]
# What a client can send in a header: one word of visible ASCII.
_USABLE = re.compile(rb"[\x21-\x7e]+")


@dataclass(frozen=True)
class Keys:
    """Names by SHA-256 of their key, by name why an entry is no key, and whether every file could be read."""

    names: Mapping[bytes, str] = field(default_factory=dict)
    unusable: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True


class KeyRing:
    """The keys in force. `folder` None means the server is open; an empty folder accepts nobody."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._signature: _Signature = ()
        self._keys = Keys()
        self.refresh()

    @property
    def unusable(self) -> Mapping[str, str]:
        """By name, why an entry of the Secret is accepted from nobody."""
        return self._keys.unusable

    @property
    def names(self) -> frozenset[str]:
        """The entries whose keys are accepted."""
        return frozenset(self._keys.names.values())

    @property
    def problem(self) -> str:
        """The unusable entries in a sentence; "" when there are none."""
        entries = "; ".join(f"`{name}` {why}" for name, why in self.unusable.items())
        return f"entries of the Secret of API keys that nobody can use: {entries}" if entries else ""

    def name_of(self, authorization: str | None, x_api_key: str | None = None) -> str | None:
        """Whose key a request carries ("" on an open server); None when it carries no accepted one.

        Looking a digest up takes equally long for every wrong key, since nobody can choose its digest.
        """
        if self._folder is None:
            return ""
        scheme, _, key = (authorization or "").partition(" ")
        offered = key.strip() if scheme.lower() == "bearer" else x_api_key or ""
        return self._keys.names.get(sha256(offered.encode("utf-8", "surrogateescape")).digest())

    def refresh(self) -> None:
        """Read the files again when any of them changed (the kubelet swaps them when the Secret does)."""
        if self._folder is None:
            return
        signature = _signature(self._folder)
        if signature == self._signature:
            return
        before, self._keys = self._keys.unusable, _read(self._folder, [name for name, *_ in signature])
        # A file that could not be read may be readable the next time without having changed.
        self._signature = signature if self._keys.complete else ()
        if self.problem and before != self._keys.unusable:
            logger.warning(self.problem)


def _signature(folder: Path) -> _Signature:
    """What changes when the kubelet swaps the volume; its own entries start with two dots."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):  # above all a link whose entry has just left the Secret
            stat = path.stat()
            if S_ISREG(stat.st_mode) and not path.name.startswith(".."):
                found.append((path.name, stat.st_mtime_ns, stat.st_ino))
    return tuple(found)


def _read(folder: Path, names: list[str]) -> Keys:
    found: dict[bytes, str] = {}
    unusable: dict[str, str] = {}
    complete = True
    for name in names:
        try:
            key = (folder / name).read_bytes().strip()
        except OSError as error:
            unusable[name], complete = f"cannot be read ({error.strerror})", False
            continue
        digest = sha256(key).digest()
        if digest in found:
            unusable[name] = f"holds the key of `{found[digest]}`"
        elif _USABLE.fullmatch(key):
            found[digest] = name
        else:
            unusable[name] = "is not one word of visible ASCII characters" if key else "is empty"
    return Keys(found, unusable, complete)
