"""What stage pods do: the ends that a stage can come to, as fates of played pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from finetune_operator.render.pod import PROGRESS_PORT
from finetune_trainer.progress import Progress
from tests.faults.cluster.nodes import Fate, PlayedPod

DIGEST = "sha256:" + "0" * 64
_SCORE = {"score": 0.2, "low": 0.1, "high": 0.3}
_BETTER = {"score": 0.9, "low": 0.8, "high": 1.0}

SUMMARIES: dict[str, dict[str, Any]] = {
    "prepare": {
        "adopted": False,
        "baseName": "base",
        "baseRevision": None,
        "baseFingerprint": DIGEST,
        "rows": 10,
        "holdoutRows": 10,
        "tokens": 100,
        "trainedTokens": 50,
        "datasetDigest": DIGEST,
        "holdoutDigest": DIGEST,
        "training": {
            "epochs": 1,
            "learningRate": 0.001,
            "effectiveBatchSize": 8,
            "maxLength": 64,
            "seed": 1,
            "steps": 2,
        },
        "lora": {"rank": 16, "alpha": 32},
        "warnings": [],
    },
    "baseline": {
        "metric": "exact",
        "rows": 10,
        **_SCORE,
        "graders": {"exact": 0.2},
        "verdict": "GoAhead",
        "blocking": False,
        "cached": False,
    },
    "train": {
        "steps": 2,
        "loss": 1.0,
        "tokens": 100,
        "tokensPerSecond": 10.0,
        "seconds": 10.0,
        "resumedFromStep": 0,
        "worldSize": 1,
    },
    "evaluate": {
        "metric": "exact",
        "rows": 10,
        "base": _SCORE,
        "tuned": _BETTER,
        "delta": {"score": 0.7, "low": 0.6, "high": 0.8},
        "graders": {"exact": {"base": 0.2, "tuned": 0.9}},
        "verdict": "Promote",
    },
    "publish": {
        "destination": "pvc://adapters/run",
        "digest": DIGEST,
        "files": 2,
        "bytes": 100,
        "promoted": True,
        "verdict": "Promote",
    },
}


def result(stage: str, outcome: str, reason: str, **summary: Any) -> str:
    """A termination message of the trainer (docs/contracts.md, "Result")."""
    document = {"schemaVersion": 1, "stage": stage, "inputDigest": DIGEST, "outcome": outcome}
    told = {"reason": reason, "message": f"{stage} says {reason}.", "summary": summary}
    return json.dumps({**document, **told})


async def succeed(pod: PlayedPod) -> None:
    """Run and succeed."""
    await pod.run()
    await pod.end(0, result(pod.stage, "Succeeded", "Completed", **SUMMARIES[pod.stage]))


def fail(reason: str, code: int) -> Fate:
    """Run and fail with a result of this reason."""

    async def fate(pod: PlayedPod) -> None:
        await pod.run()
        await pod.end(code, result(pod.stage, "Failed", reason))

    return fate


async def go_on(pod: PlayedPod) -> None:
    """After a loss: succeed, or find that nothing was stored if that is what the pod looks for."""
    lost = fail("NotStored", 78)
    looks = any("reemit" in container.get("args", ()) for container in pod.manifest["spec"]["containers"])
    await (lost if looks else succeed)(pod)


async def be_killed_for_memory(pod: PlayedPod) -> None:
    """The kernel ends the container: no result."""
    await pod.run()
    await pod.end(137, reason="OOMKilled")


async def crash(pod: PlayedPod) -> None:
    """End without a word."""
    await pod.run()
    await pod.end(1)


async def be_evicted(pod: PlayedPod) -> None:
    """A drain, or an API-initiated eviction, takes it away."""
    await pod.run()
    await pod.evict()
    await hold(pod)


async def lack_its_image(pod: PlayedPod) -> None:
    """The image cannot be pulled."""
    await pod.wait("ImagePullBackOff", "not found")
    await hold(pod)


def wait_for(holds: Callable[[PlayedPod], bool]) -> Fate:
    """Run until something is true, then succeed."""

    async def fate(pod: PlayedPod) -> None:
        await pod.run()
        await pod.history.until(lambda: holds(pod))
        await succeed(pod)

    return fate


async def keep_running(pod: PlayedPod) -> None:
    """Run until the pod is deleted."""
    await pod.run()
    await hold(pod)


async def stand_still(pod: PlayedPod) -> None:
    """A frozen process: /progress goes on answering with the step that was the last to end."""
    frozen = Progress(pod.stage, step=1, total_steps=2, step_seconds=1.0, message="Training.")

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.json_response(frozen.to_json())

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, pod.address, PROGRESS_PORT).start()
        await pod.run()
        await pod.deletion.wait()
    finally:
        await runner.cleanup()


async def hold(pod: PlayedPod) -> None:
    """Nothing more happens by itself."""
    await asyncio.Event().wait()


async def stop_politely(pod: PlayedPod) -> None:
    """On deletion: SIGTERM, a checkpoint, Interrupted, and the pod goes."""
    if pod.stage and pod.manifest.get("status", {}).get("phase") == "Running":
        await pod.end(75, result(pod.stage, "Interrupted", "Interrupted"))
    await pod.remove()


async def be_killed(pod: PlayedPod) -> None:
    """On deletion: the grace period is over before the stage has ended, so there is no result."""
    await pod.end(137)
    await pod.remove()


async def stay(pod: PlayedPod) -> None:
    """On deletion: the node is dead, so nothing answers and the pod stays Terminating."""
