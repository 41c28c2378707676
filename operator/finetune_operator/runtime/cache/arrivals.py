"""What the watches of our own kinds still owe: the only way to see that a watch has gone silent.

kopf runs these watches and tells nobody when one of them stands still. But every status that we write has to
come back through them, and a list that is made now and then names what they must have brought.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune_operator.runtime.resources import Key


@dataclass(frozen=True)
class _Expected:
    """A resourceVersion, and since when it is known to exist."""

    version: str
    since: float


class Arrivals:
    """Keeps the expectations; `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._expected: dict[Key, _Expected] = {}

    def expect(self, key: Key, version: str) -> None:
        """This state exists; an older one that is still awaited comes with it."""
        known = self._expected.get(key)
        since = self._clock() if known is None else known.since
        self._expected[key] = _Expected(version, since)

    def listed(self, kind: str, owed: Mapping[Key, str]) -> None:
        """A list has shown what the watch of this kind owes, and that it owes nothing else."""
        for key in [key for key in self._expected if key.kind == kind and key not in owed]:
            del self._expected[key]
        now = self._clock()
        for key, version in owed.items():
            known = self._expected.get(key)
            self._expected[key] = _Expected(version, now if known is None else known.since)

    def brought(self, key: Key, version: str | None) -> None:
        """The watch brought this state, None for a deletion."""
        expected = self._expected.get(key)
        if expected is not None and (version is None or not is_newer(expected.version, version)):
            del self._expected[key]

    def owed(self) -> int:
        """How many objects are awaited."""
        return len(self._expected)

    def overdue(self) -> dict[str, float]:
        """For each kind that is awaited, since how many seconds."""
        now, found = self._clock(), dict[str, float]()
        for key, expected in self._expected.items():
            found[key.kind] = max(found.get(key.kind, 0.0), now - expected.since)
        return found


def is_newer(version: str, than: str) -> bool:
    """Whether a resourceVersion is a later one; the API server's are whole numbers that grow."""
    if version.isdigit() and than.isdigit():
        return int(version) > int(than)
    return version != than
