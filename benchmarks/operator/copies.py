"""Finished runs in any number: copies of one that went through, with the volume, Jobs and pods it left."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.operator.client import Client, Object, in_parallel
from benchmarks.operator.objects import named, place, spec
from benchmarks.operator.stand_in import COPY, SAMPLE
from finetune_operator.core.manifests import condition, text
from finetune_operator.render.names import owner_hash
from finetune_operator.runtime.resources import CLAIM, FINETUNEJOB, JOB, POD, Resource

LIMIT_SECONDS = 300

GENERATED = frozenset(
    prefix + name for prefix in ("", "batch.kubernetes.io/") for name in ("controller-uid", "job-name")
)


@dataclass(frozen=True)
class Sample:
    """A run that has ended, and the children that are left of it, owners first."""

    run: Object
    children: list[tuple[Resource, Object]]


async def finish_one(client: Client, cleanup_seconds: float) -> Sample:
    """Let one run go through all stages; RuntimeError when it does not succeed.

    The operator has `cleanup_seconds` to remove what a finished run no longer needs.
    """
    namespace = place(0)
    run = await client.create(FINETUNEJOB, namespace, named(FINETUNEJOB, SAMPLE, spec=spec()))
    await _ended(client, run)
    await asyncio.sleep(cleanup_seconds)
    return Sample(
        await client.get(FINETUNEJOB, namespace, SAMPLE),
        [
            (resource, child)
            for resource in (CLAIM, JOB, POD)
            for child in (await client.list_all(resource, namespace, f"finetune.dev/uid={_uid(run)}"))[0]
        ],
    )


async def multiply(client: Client, sample: Sample, count: int) -> None:
    """Create copies; the operator must not run, or it would begin them anew."""

    async def one(number: int) -> None:
        await _copy(client, sample, place(number), f"{COPY}-{number}")

    await in_parallel(one, range(count))


async def _ended(client: Client, run: Object) -> None:
    namespace, version = run["metadata"]["namespace"], run["metadata"]["resourceVersion"]
    async with (
        aclosing(client.watch(FINETUNEJOB, namespace, version)) as events,
        asyncio.timeout(LIMIT_SECONDS),
    ):
        async for event in events:
            outcome = condition(event["object"], "Succeeded")
            if _uid(event["object"]) == _uid(run) and text(outcome, "status") in ("True", "False"):
                break
    if text(outcome, "status") == "False":
        raise RuntimeError(f"the sample run failed: {text(outcome, 'message')}")


async def _copy(client: Client, sample: Sample, namespace: str, name: str) -> None:
    run = await client.create(FINETUNEJOB, namespace, named(FINETUNEJOB, name, spec=sample.run["spec"]))
    old, new = _uid(sample.run), _uid(run)
    words = {old: new, owner_hash(old): owner_hash(new), SAMPLE: name}
    await _copy_status(client, FINETUNEJOB, run, sample.run, words)
    for resource, child in sample.children:
        made = await client.create(resource, namespace, _renamed(_bare(child), words))
        words[_uid(child)] = _uid(made)
        await _copy_status(client, resource, made, child, words)


async def _copy_status(
    client: Client, resource: Resource, made: Object, original: Object, words: Mapping[str, str]
) -> None:
    if "status" in original:
        metadata, body = made["metadata"], _renamed({"status": original["status"]}, words)
        await client.patch(resource, metadata["namespace"], metadata["name"], body, "status")


def _bare(child: Object) -> Object:
    """Without what the API server fills in; it refuses the selector and the pods' labels of another Job."""
    kept = ("name", "labels", "annotations", "ownerReferences")
    metadata = {key: child["metadata"][key] for key in kept if key in child["metadata"]}
    bare: Object = copy.deepcopy({key: value for key, value in child.items() if key != "status"})
    bare["metadata"] = metadata
    if child["kind"] == JOB.kind:
        del bare["spec"]["selector"]
        labels = bare["spec"]["template"]["metadata"]["labels"]
        bare["spec"]["template"]["metadata"]["labels"] = {k: labels[k] for k in labels if k not in GENERATED}
    return bare


def _renamed(body: Object, words: Mapping[str, str]) -> Object:
    document = json.dumps(body)
    for old, new in words.items():
        document = document.replace(old, new)
    renamed: Object = json.loads(document)
    return renamed


def _uid(manifest: Object) -> Any:
    return manifest["metadata"]["uid"]
