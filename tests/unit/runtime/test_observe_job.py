"""When the runs of a namespace are read for the calibration: once per attempt at prepare, and only on GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from finetune_operator.runtime.observe_job import JobObserver
from finetune_operator.runtime.stores import Stores

from finetune_operator.runtime.cache.store import Store

RUNS = "/apis/finetune.dev/v1alpha1/namespaces/demo/finetunejobs"
OWNED = {"metadata": {"ownerReferences": [{"uid": "u", "controller": True}]}}


async def nothing(address: str, port: int, path: str) -> None:
    """No pod answers."""
    del address, port, path


def run(stage: str, state: str, resources: dict[str, Any], *, suspend: bool) -> dict[str, Any]:
    """A run with one attempt."""
    return {
        "metadata": {"name": "run", "namespace": "demo", "uid": "u"},
        "spec": {
            "baseModel": {"source": "pvc://m"},
            "dataset": {"source": "pvc://d/f"},
            "output": {"destination": "pvc://o/p"},
            "resources": resources,
            "suspend": suspend,
        },
        "status": {"attempts": [{"stage": stage, "number": 1, "job": "j", "state": state}]},
    }


CASES = [
    ("prepare", "Recorded", True, {"gpuType": "h200"}, False, 2),
    ("prepare", "Running", False, {"gpuType": "h200"}, False, 0),
    ("prepare", "Succeeded", True, {"gpuType": "h200"}, False, 0),
    ("train", "Recorded", True, {"gpuType": "h200"}, False, 0),
    ("prepare", "Recorded", True, {"gpusPerNode": 0}, False, 0),
    ("prepare", "Recorded", True, {"gpuType": "h200"}, True, 0),
]


@pytest.mark.parametrize(
    ("stage", "state", "waiting", "resources", "suspend", "count"),
    CASES,
    ids=["about to prepare", "preparing", "prepared", "about to train", "on the CPU", "a suspended run"],
)
async def test_runs_are_read_only_when_prepare_is_about_to_start(
    api: Any, server: Any, stage: str, state: str, waiting: bool, resources: Any, suspend: bool, count: int
) -> None:
    server.put("/apis/batch/v1/namespaces/demo/jobs/j", **OWNED, spec={"suspend": waiting})
    for name in ("first", "second"):
        server.put(f"{RUNS}/{name}", spec={})
    observe = JobObserver(api, Stores(Store(), Store(), Store()), nothing, lambda: 0.0, 10.0)
    observed = await observe(run(stage, state, resources, suspend=suspend))
    assert len(observed.runs) == count
    assert (("GET", RUNS) in server.seen) == (count > 0)
