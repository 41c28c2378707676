"""The agent: observes the manifest and the engine, asks `converge` what to do, does it.

Two tasks share the records. `watch` notices changes quickly and applies routes; `work` performs the slow
steps one after the other (a load stops generation for everyone, so never two at once). A step's result
counts only if its record is still the one it started from.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_serving.agent.artifact import local_folder, stage
from finetune_serving.agent.converge import (
    Record,
    Work,
    World,
    after_engine_restart,
    converge,
    failed,
    interrupted,
)
from finetune_serving.agent.effect import is_silent_no_op
from finetune_serving.agent.engine_client import EngineClient
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.refusal import EngineLostError, RefusedError
from finetune_serving.agent.report import Process, state
from finetune_serving.documents import State
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.routing import table_of

logger = logging.getLogger(__name__)
TICK_SECONDS = 0.25
_REMOVAL_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Places:
    """Folders the agent works in: mounted claims (`<sources>/pvc/<claim>`) and local copies."""

    sources: Path
    adapters: Path


class Agent:
    """Makes the engine hold what the manifest lists; see the module's docstring."""

    def __init__(
        self, manifest: ManifestFile, engine: EngineClient, book: Book, keys: KeyRing, ledger: Ledger,
        places: Places, limits: Limits, on_load: Callable[[float], None],
    ) -> None:  # fmt: skip
        self._manifest = manifest
        self._engine = engine
        self._book = book
        self._keys = keys
        self._ledger = ledger
        self._places = places
        self._limits = limits
        self._on_load = on_load
        self._world = World()
        self._engine_id = ""
        self._changed = asyncio.Event()

    def state(self) -> State:
        """The /state document of this moment."""
        problem = self._manifest.error or self._keys.problem
        process = Process(self._engine_id, self._limits.base_fingerprint, self._book.closing, problem)
        return state(self._snapshot(), process, self._ledger.tally)

    async def run(self) -> None:
        """Watch and work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._work())

    async def _watch(self) -> None:
        while True:
            self._manifest.refresh()
            self._keys.refresh()
            await self._see_engine(suspicious=self._book.trouble.is_set())
            self._settle()
            self._changed.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):
                    await self._book.trouble.wait()

    async def _see_engine(self, *, suspicious: bool) -> None:
        """A new engine process has lost every adapter; one that does not answer may still hold them."""
        self._book.trouble.clear()
        identity = await self._engine.identity()
        if identity and identity != self._engine_id:
            logger.info("engine process found", extra={"fields": {"engineId": identity}})
            self._world = replace(self._world, records=after_engine_restart(self._world.records))
            self._engine_id = identity
            if not await self._reconcile_leftovers():
                self._engine_id = ""
                return
        elif identity and suspicious and not await self._still_held():
            self._world = replace(self._world, records=after_engine_restart(self._world.records))
        self._set_engine(up=identity != "")

    async def _still_held(self) -> bool:
        """Whether the engine knows every version we believe it holds."""
        try:
            held = await self._engine.loaded()
        except EngineLostError:
            return True
        return all(name in held for name, r in self._world.records.items() if r.phase == "Ready")

    async def _reconcile_leftovers(self) -> bool:
        """Remove what an earlier gateway process left in the engine and on disk; False to try again."""
        if self._manifest.current is None:
            return False
        listed = {entry.name: entry for entry in self._manifest.current.versions}
        try:
            for name in (await self._engine.loaded()).keys() - listed.keys() - self._world.records.keys():
                await self._engine.remove(name)
        except EngineLostError:
            return False
        entries = [*listed.values(), *(r.entry for r in self._world.records.values())]
        kept = {local_folder(self._places.adapters, entry.digest).name for entry in entries}
        await asyncio.to_thread(_remove_other_folders, self._places.adapters, kept)
        return True

    def _set_engine(self, *, up: bool) -> None:
        if up != self._world.engine_up:
            logger.info("engine is %s", "up" if up else "down")
        self._world = replace(self._world, engine_up=up)
        self._publish()

    def _snapshot(self) -> World:
        counts = {name: self._ledger.tally(name).in_flight for name in self._world.records}
        return replace(self._world, manifest=self._manifest.current, in_flight=counts, now=time.monotonic())

    def _settle(self) -> Work | None:
        """Take over what `converge` decides and tell the gateway; returns the work it asks for."""
        decision = converge(self._snapshot())
        if decision.applied is not self._world.applied and decision.applied is not None:
            logger.info("routes applied", extra={"fields": {"generation": decision.applied.generation}})
        self._world = replace(
            self._world, manifest=self._manifest.current, records=decision.records, applied=decision.applied
        )
        self._publish()
        return decision.work

    def _publish(self) -> None:
        records = self._world.records
        self._book.engine_up = self._world.engine_up
        self._book.loaded = frozenset(n for n, r in records.items() if r.phase == "Ready")
        if self._manifest.current is not None:
            self._book.limits = self._manifest.current.limits
            self._book.grants = {grant.name: grant.aliases for grant in self._manifest.current.keys}
        if self._world.applied is not None:
            self._book.table = table_of(self._world.applied)
            published = {name: r.published for name, r in records.items()}
            self._book.created = published | {self._book.table.base: self._limits.base_published}
            kwargs = {name: r.template_kwargs for name, r in records.items()}
            self._book.template_kwargs = kwargs | {self._book.table.base: self._limits.base_template_kwargs}
        self._book.announce()

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            work = self._settle()
            if work is None:
                await self._changed.wait()
                continue
            await self._perform(work)

    async def _perform(self, work: Work) -> None:
        record = self._world.records[work.version]
        if work.kind == "Remove":
            await self._remove(record)
            return
        steps = {"Fetch": self._fetch, "Load": self._load, "Verify": self._verify}
        fields = {"version": work.version, "step": work.kind}
        try:
            result = await steps[work.kind](record)
        except RefusedError as error:
            result = failed(record, error.reason, error.message, time.monotonic(), retry=error.retry)
            logger.warning(error.message, extra={"fields": fields | {"reason": error.reason}})
        except EngineLostError as error:
            text = f"The engine stopped answering during {work.kind}: {error}"
            result = interrupted(record, text, time.monotonic())
            logger.warning(text, extra={"fields": fields})
            self._set_engine(up=False)
        if self._world.records.get(work.version) is record:
            self._world = replace(self._world, records={**self._world.records, work.version: result})

    async def _fetch(self, record: Record) -> Record:
        staged = await asyncio.to_thread(
            stage, record.entry, self._places.sources, self._places.adapters, self._limits
        )
        return replace(
            record,
            phase="Loading",
            reason="",
            message="",
            retry_at=None,
            published=staged.published,
            template_kwargs=staged.template_kwargs,
        )

    async def _load(self, record: Record) -> Record:
        started = time.monotonic()
        path = local_folder(self._places.adapters, record.entry.digest)
        await self._engine.load(record.entry.name, str(path))
        seconds = round(time.monotonic() - started, 4)
        self._on_load(seconds)
        logger.info("adapter loaded", extra={"fields": {"version": record.entry.name, "seconds": seconds}})
        return replace(record, phase="Verifying", load_seconds=seconds, retry_at=None)

    async def _verify(self, record: Record) -> Record:
        name, base = record.entry.name, self._manifest.current.base.name if self._manifest.current else ""
        first, tuned, again = [await self._engine.continuation(model) for model in (base, name, base)]
        if is_silent_no_op(first, again, tuned):
            await self._engine.remove(name)
            text = f"{name} answers exactly like the base: its weights match no module of this model."
            raise RefusedError("SilentNoOp", text)
        return replace(record, phase="Ready", reason="", message="", attempts=0, retry_at=None)

    async def _remove(self, record: Record) -> None:
        """Out of the engine first, then the files: an engine that misses a file it wants dies."""
        name = record.entry.name
        try:
            gone = await self._engine.remove(name)
        except EngineLostError:
            self._set_engine(up=False)
            return
        if self._world.records.get(name) is record and gone:
            await self._delete_files(record)
        if self._world.records.get(name) is not record:
            return  # listed again meanwhile: it starts over
        records = dict(self._world.records)
        if gone:
            del records[name]
            logger.info("adapter removed", extra={"fields": {"version": name}})
        else:
            records[name] = replace(record, retry_at=time.monotonic() + _REMOVAL_RETRY_SECONDS)
        self._world = replace(self._world, records=records)

    async def _delete_files(self, record: Record) -> None:
        """Delete the local copy unless another version has the same content."""
        digest = record.entry.digest
        if sum(r.entry.digest == digest for r in self._world.records.values()) == 1:
            folder = local_folder(self._places.adapters, digest)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _remove_other_folders(root: Path, kept: set[str]) -> None:
    """Delete copies of unlisted digests; a copy under way is called `.<digest>.partial`."""
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.is_dir() and folder.name.strip(".").removesuffix(".partial") not in kept:
            shutil.rmtree(folder, ignore_errors=True)
