"""What each ModelServer says to whom: which objects a change of its status concerns.

In a step of a rollout the status changes with every look at a replica, and every AdapterDeployment on the
server would be reconciled for the sake of one.
"""

from __future__ import annotations

import json
from collections import defaultdict

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import items, mapping, text
from finetune_operator.runtime.resources import Key

_BY_NAME = {"adapters": "deployment", "rollouts": "deployment", "candidates": "fineTuneJob"}
_TO_ALL = ""


class Reports:
    """The status of each server as it was brought last, by hashes: that of a thousand adapters is large."""

    def __init__(self) -> None:
        self._said: dict[Key, dict[str, int]] = {}

    def concerned(self, server: Key, manifest: Manifest, naming: set[Key]) -> set[Key]:
        """Those of the objects `naming` the server to which it says something else than before."""
        before, now = self._said.get(server), _said(manifest)
        self._said[server] = now
        if before is None or before[_TO_ALL] != now[_TO_ALL]:
            return naming
        return {key for key in naming if before.get(key.name) != now.get(key.name)}

    def forget(self, server: Key) -> None:
        """The server is gone."""
        self._said.pop(server, None)


def _said(manifest: Manifest) -> dict[str, int]:
    """What is said to each by name, and under "" what is said to all: also a spec can make the whole
    unreadable. The operator alone reads `counts`.
    """
    status, said = mapping(manifest, "status"), defaultdict(list)
    to_all = {key: value for key, value in status.items() if key not in _BY_NAME}
    said[_TO_ALL] = [mapping(manifest, "spec"), to_all]
    for field, name in _BY_NAME.items():
        for entry in items(status, field):
            told = {key: value for key, value in entry.items() if key != "counts"}
            said[text(entry, name)].append(told)
    return {name: hash(json.dumps(what, sort_keys=True)) for name, what in said.items()}
