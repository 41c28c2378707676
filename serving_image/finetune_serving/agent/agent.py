"""The agent: observes manifest and engine, asks `converge` what to do, has it done, tells the gateway.

Its tasks share the records. `_watch` takes over every change, applies routes and tells the gateway,
`_follow_engine` takes over the verdict on the engine, `_work` does the work on the engine step by step (a
load stops generation for everyone, so never two at once), and copies run beside it. A step's result counts
only if its record is still the one it started from.
"""

import asyncio
import logging
import time
import uuid
from contextlib import suppress
from dataclasses import replace

from finetune_serving.agent.converge import Work, World, converge
from finetune_serving.agent.engine_watch import EngineWatch
from finetune_serving.agent.manifest import ManifestFile
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.record import Record, after_engine_restart, given_up, lost, refused
from finetune_serving.agent.report import Process, state
from finetune_serving.agent.routes import (
    alias_states,
    answering,
    ready_versions,
    refusals,
    refused_candidates,
    versions_of,
)
from finetune_serving.agent.slowdown import Subject
from finetune_serving.agent.steps import Steps
from finetune_serving.documents import ServerManifest, State
from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Ledger
from finetune_serving.gateway.routing import table_of

logger = logging.getLogger(__name__)
TICK_SECONDS = 0.25
_TIDY_SECONDS = 10.0


class Agent:
    """Makes the engine hold what the manifest lists; see the module's docstring."""

    def __init__(
        self,
        manifest: ManifestFile,
        engine: EngineWatch,
        steps: Steps,
        limits: Limits,
        book: Book,
        keys: KeyRing,
        ledger: Ledger,
    ) -> None:
        self._manifest = manifest
        self._engine = engine
        self._steps = steps
        self._limits = limits
        self._book = book
        self._keys = keys
        self._ledger = ledger
        self._process_id = uuid.uuid4().hex
        self._world = World(moved_at=time.monotonic())
        self._engine_id = ""
        self._tidied = ""
        self._tidy_at = 0.0
        self._copied = 0
        self._due: tuple[Work, Record] | None = None
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._copies: set[asyncio.Task[None]] = set()

    def state(self) -> State:
        """The /state document of this moment."""
        process = Process(
            process_id=self._process_id,
            engine_id=self._engine_id,
            fingerprint=self._limits.base_fingerprint,
            closing=self._book.closing,
            problem=self._manifest.error or self._keys.problem,
            engine_trouble=self._engine.verdict.trouble if self._engine.verdict.hung else "",
            slots=self._engine.verdict.slots,
        )
        return state(self._snapshot(), process, self._ledger.tally)

    def at_rest(self) -> Subject | None:
        """What the slowdown can be measured with: None unless all is done and an alias answers.

        A candidate is none: it goes as soon as its run has scored it.
        """
        routed = {name for route in self._world.routes.values() for name in versions_of(route)}
        ready = sorted(ready_versions(self._world.records) & routed)
        busy = self._due is not None or self._world.folders or self._book.closing
        if busy or not self._book.ready or not ready:
            return None
        return Subject(self._engine_id, self._book.table.base, ready[0])

    async def run(self) -> None:
        """Watch and work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for task in (self._watch(), self._follow_engine(), self._engine.guard(), self._work()):
                    tasks.create_task(task)
        finally:
            for copy in self._copies:
                copy.cancel()

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            self._manifest.refresh()
            self._keys.refresh()
            self._follow_copies()
            self._settle()
            self._ledger.keep(self._book.table.pairs())
            self._settled.set()
            await _set_within(self._changed, TICK_SECONDS)

    def _follow_copies(self) -> None:
        """A large adapter from a slow store comes nearer to Ready with every byte."""
        copied = self._steps.copied()
        if copied != self._copied:
            self._copied = copied
            self._world = replace(self._world, moved_at=time.monotonic())

    async def _follow_engine(self) -> None:
        while True:
            suspicious = self._book.trouble.is_set()
            self._book.trouble.clear()
            await self._see_engine()
            if suspicious and self._world.engine_up:
                await self._find_lost()
            await _set_within(self._book.trouble, TICK_SECONDS)

    async def _see_engine(self) -> None:
        """A new engine process has lost every adapter; one that is slow or gone may still hold them."""
        verdict = await self._engine.look()
        if verdict.engine_id != self._engine_id:
            logger.info("engine process found", extra={"fields": {"engineId": verdict.engine_id}})
            self._engine_id = verdict.engine_id
            records, now = after_engine_restart(self._world.records), time.monotonic()
            self._world = replace(self._world, records=records, opened=False, moved_at=now, engine_at=now)
            self._changed.set()
        if verdict.up != self._world.engine_up:
            self._world = replace(self._world, engine_up=verdict.up)
            self._changed.set()

    async def _find_lost(self) -> None:
        """A request met an engine that did not know its version: load again what it no longer holds."""
        held = await self._steps.held()
        if held is not None:
            records = {n: r if n in held else lost(r) for n, r in self._world.records.items()}
            self._world = replace(self._world, records=records)
            self._changed.set()

    def _snapshot(self) -> World:
        counts = {name: self._ledger.tally(name).in_flight for name in self._world.records}
        return replace(self._world, manifest=self._manifest.current, in_flight=counts, now=time.monotonic())

    def _settle(self) -> None:
        """Take over what `converge` decides and tell the gateway."""
        decision = converge(self._snapshot())
        if decision.world.applied != self._world.applied:
            logger.info("routes applied", extra={"fields": {"generation": decision.world.applied}})
        self._world, work = decision.world, decision.work
        self._due = None if work is None else (work, self._world.records[work.version])
        self._publish()
        for version in decision.overdue:
            if count := self._ledger.cancel(version):
                logger.warning("requests ended", extra={"fields": {"version": version, "requests": count}})
        for version in decision.copies:
            self._start_copy(self._world.records[version])

    def _publish(self) -> None:
        world, manifest = self._world, self._world.manifest
        self._book.engine_up = world.engine_up
        self._book.loaded = ready = ready_versions(world.records)
        if manifest is not None:
            self._publish_routes(manifest, ready)
        self._book.ready = self.state().ready
        self._book.announce()

    def _publish_routes(self, manifest: ServerManifest, ready: frozenset[str]) -> None:
        world = self._world
        self._book.limits = manifest.limits
        self._book.grants = {grant.name: grant.aliases for grant in manifest.keys}
        routes = [
            route.model_copy(update={"targets": answering(route, ready)}) for route in world.routes.values()
        ]
        self._book.table = table_of(manifest.model_copy(update={"routes": tuple(routes)}))
        states = alias_states(manifest, world.routes, world.records, engine_up=world.engine_up)
        self._book.unavailable = refusals(states, world.routes, world.unavailable) if world.engine_up else {}
        self._book.refused = refused_candidates(manifest, world.records)
        published = {name: r.published for name, r in world.records.items()}
        self._book.created = published | {manifest.base.name: self._limits.base_published}
        kwargs = {name: r.template_kwargs for name, r in world.records.items()}
        self._book.template_kwargs = kwargs | {manifest.base.name: self._limits.base_template_kwargs}

    async def _work(self) -> None:
        while True:
            self._settled.clear()  # what was due before a step is of no use after it
            await self._settled.wait()
            if self._world.engine_up and self._untidy():
                await self._tidy()
            elif self._due is not None:
                await self._perform(*self._due)
            else:
                continue
            self._changed.set()

    def _untidy(self) -> bool:
        waiting = self._tidied != self._engine_id and self._world.manifest is not None
        return waiting and time.monotonic() >= self._tidy_at

    async def _tidy(self) -> None:
        """Remove what an earlier gateway process or a refused version left.

        An engine that cannot now keeps nobody waiting.
        """
        engine_id, records = self._engine_id, self._world.records
        if await self._steps.tidy([name for name, r in records.items() if not refused(r)]):
            self._tidied = engine_id
            await self._steps.delete_other_files([r.entry.digest for r in self._world.records.values()])
        self._tidy_at = time.monotonic() + _TIDY_SECONDS

    async def _perform(self, work: Work, record: Record) -> None:
        if work.kind == "Remove":
            await self._remove(record)
            return
        if work.kind == "Load":
            after = await self._steps.load(record)
        else:
            after = await self._steps.verify(record, self._book.table.base, self._engine_id)
        self._take(record, after)
        if refused(after):
            self._tidied = ""  # its removal may have failed, and it holds a slot for as long as it is listed
        if after.retry_at is not None:
            await self._see_engine()  # an engine that is gone must not fail the next version as well

    def _take(self, before: Record, after: Record) -> None:
        """Keep the result of a step; a record that changed meanwhile starts over."""
        name = before.entry.name
        if self._world.records.get(name) is before:
            moved = after.phase != before.phase and not given_up(before)
            moved_at = time.monotonic() if moved else self._world.moved_at
            records = {**self._world.records, name: after}
            self._world = replace(self._world, records=records, moved_at=moved_at)
        self._changed.set()

    def _start_copy(self, record: Record) -> None:
        """Copy beside everything else: a store that hangs must not delay the work on the engine."""
        task = asyncio.create_task(self._copy(record))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)
        self._lock(record.entry.digest)

    async def _copy(self, record: Record) -> None:
        try:
            self._take(record, await self._steps.fetch(record))
        finally:
            self._unlock(record.entry.digest)

    async def _remove(self, record: Record) -> None:
        """Out of the engine first, then the files: an engine that misses a file it wants dies."""
        name = record.entry.name
        after = await self._steps.remove(record)
        if after is not None:
            self._take(record, after)
            return
        if self._world.records.get(name) is record:
            await self._delete_files(record)
        if self._world.records.get(name) is record:  # else it is listed again and starts over
            records = {other: r for other, r in self._world.records.items() if other != name}
            self._world = replace(self._world, records=records)
            logger.info("adapter removed", extra={"fields": {"version": name}})

    async def _delete_files(self, record: Record) -> None:
        """Delete the local copy unless another version has the same content."""
        digest = record.entry.digest
        if sum(r.entry.digest == digest for r in self._world.records.values()) == 1:
            self._lock(digest)
            await self._steps.delete_files(digest)
            self._unlock(digest)

    def _lock(self, digest: str) -> None:
        self._world = replace(self._world, folders=self._world.folders | {digest})

    def _unlock(self, digest: str) -> None:
        self._world = replace(self._world, folders=self._world.folders - {digest})


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Wait until the event is set, at most for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
