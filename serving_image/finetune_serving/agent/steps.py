"""The slow work on one version: staging its files, loading, probing, removing.

Each step takes a record and returns what has become of it. Nothing that an artifact, a store or the engine
does to one version leaves this module as an exception.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_serving.agent.artifact import local_folder, stage
from finetune_serving.agent.effect import Step, differs, is_same
from finetune_serving.agent.engine_client import (
    EngineAnswerError,
    EngineClient,
    EngineLostError,
    EngineSlowError,
)
from finetune_serving.agent.preflight import Limits
from finetune_serving.agent.record import Record, failed, interrupted, postponed, ready
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import Reason

logger = logging.getLogger(__name__)
# An unreadable answer may come from what an earlier request left in the engine's memory (NaN rows of its
# KV cache); a longer prompt overwrites it.
PROMPT_REPEATS = (1, 4, 16)


@dataclass(frozen=True)
class Places:
    """Folders the agent works in: mounted claims (`<sources>/pvc/<claim>`) and local copies."""

    sources: Path
    adapters: Path


@dataclass
class Base:
    """The base as one engine process serves it, with two readings of it for each length of the prompt."""

    name: str = ""
    engine_id: str = ""
    longest: int | None = None
    readings: dict[int, tuple[list[Step], list[Step]]] = field(default_factory=dict)


class Steps:
    """Does the work; `on_load` is told the seconds that each load took."""

    def __init__(
        self, engine: EngineClient, places: Places, limits: Limits, on_load: Callable[[float], None]
    ) -> None:
        self._engine = engine
        self._places = places
        self._limits = limits
        self._on_load = on_load
        self._base = Base()

    def folder(self, digest: str) -> Path:
        """Where the local copy of a digest is."""
        return local_folder(self._places.adapters, digest)

    def copied(self) -> int:
        """Bytes of the copies under way: they grow while a store is slow and stand still while it hangs."""
        with suppress(OSError):  # a copy has just become whole, or was given up
            return sum(file.stat().st_size for file in self._places.adapters.glob(".*.partial/*"))
        return 0

    async def fetch(self, record: Record) -> Record:
        """Stage the files; the next phase is Loading."""
        return await self._kept(self._fetch(record), record, "InvalidArtifact")

    async def load(self, record: Record) -> Record:
        """Load into the engine; the next phase is Verifying."""
        return await self._kept(self._load(record), record, "LoadFailed")

    async def verify(self, record: Record, base: str, engine_id: str) -> Record:
        """Ask for the effect; the next phase is Ready."""
        if (base, engine_id) != (self._base.name, self._base.engine_id):
            self._base = Base(base, engine_id)
        return await self._kept(self._verify(record), record, "LoadFailed")

    async def remove(self, record: Record) -> Record | None:
        """Take it out of the engine; None once it is gone, else the record with the time to try again."""
        if await self._removed(record.entry.name):
            return None
        text = "it cannot be removed from the engine yet; trying again"
        return replace(postponed(record, text, time.monotonic()), attempts=record.attempts + 1)

    async def held(self) -> set[str] | None:
        """The versions that the engine knows by name; None when it cannot tell."""
        try:
            return set(await self._engine.loaded())
        except Exception as error:
            logger.warning("the engine does not say what it holds: %s", error)
            return None

    async def tidy(self, listed: Collection[str]) -> bool:
        """Remove what an earlier gateway process left in the engine; False to try again."""
        held = await self.held()
        gone = [await self._removed(name) for name in (held or set()) - set(listed)]
        return held is not None and all(gone)

    async def delete_files(self, digest: str) -> None:
        """Delete the local copy of a digest."""
        await asyncio.to_thread(shutil.rmtree, self.folder(digest), ignore_errors=True)

    async def delete_other_files(self, digests: Collection[str]) -> None:
        """Delete every local copy but those of these digests."""
        kept = {self.folder(digest).name for digest in digests}
        try:
            await asyncio.to_thread(_remove_other_folders, self._places.adapters, kept)
        except OSError as error:
            logger.warning("local copies that are of no use cannot be found: %s", error)

    async def _kept(self, step: Awaitable[Record], record: Record, reason: Reason) -> Record:
        """What the step returns, or the record of its failure; `reason` stands for a defect of ours."""
        fields = {"version": record.entry.name, "step": record.phase}
        try:
            return await step
        except RefusedError as error:
            logger.warning(error.message, extra={"fields": fields | {"reason": error.reason}})
            if record.phase in ("Loading", "Verifying"):
                await self._removed(record.entry.name)  # what is refused leaves nothing in the engine
            return failed(record, error.reason, error.message, time.monotonic(), retry=error.retry)
        except EngineLostError as error:
            text = f"The engine went away: {error}"
            logger.warning(text, extra={"fields": fields})
            return interrupted(record, text, time.monotonic())
        except (EngineSlowError, EngineAnswerError) as error:
            logger.warning("%s", error, extra={"fields": fields})
            return _late(record, f"It is tried again: {error}", time.monotonic())
        except Exception as error:
            logger.exception("a step failed", extra={"fields": fields})
            text = f"{type(error).__name__}: {error}"[:500]
            return failed(record, reason, text, time.monotonic(), retry=True)

    async def _fetch(self, record: Record) -> Record:
        staged = await asyncio.to_thread(
            stage, record.entry, self._places.sources, self._places.adapters, self._limits
        )
        return replace(
            record,
            phase="Loading",
            retry_at=None,
            published=staged.published,
            template_kwargs=staged.template_kwargs,
        )

    async def _load(self, record: Record) -> Record:
        started = time.monotonic()
        await self._engine.load(record.entry.name, str(self.folder(record.entry.digest)))
        seconds = round(time.monotonic() - started, 4)
        self._on_load(seconds)
        logger.info("adapter loaded", extra={"fields": {"version": record.entry.name, "seconds": seconds}})
        return replace(record, phase="Verifying", load_seconds=seconds, retry_at=None)

    async def _removed(self, name: str) -> bool:
        """Whether the engine no longer holds it; the log says why it does."""
        fields = {"version": name}
        try:
            if await self._engine.remove(name):
                return True
            logger.info("the engine still holds requests of an adapter", extra={"fields": fields})
        except (EngineLostError, EngineSlowError, EngineAnswerError) as error:
            logger.warning("an adapter cannot be removed: %s", error, extra={"fields": fields})
        except Exception:
            logger.exception("an adapter cannot be removed", extra={"fields": fields})
        return False

    async def _verify(self, record: Record) -> Record:
        """One generation is enough for an adapter with an effect; it takes three to find none."""
        name, same, readable = record.entry.name, 0, False
        for repeats in PROMPT_REPEATS:
            tuned = await self._reading(name, repeats)
            base = await self._base_reading(repeats)
            readable = readable or tuned is not None
            if base is not None and tuned is not None:
                if differs(*base, tuned):
                    return ready(record)
                same += is_same(base[0], tuned)
        if not readable:
            await self._reading(self._base.name, 2 * PROMPT_REPEATS[-1])  # for the requests of others
            text = f"The log-probabilities of {name} are no finite numbers."
            raise RefusedError("LoadFailed", text, retry=True)
        if same == len(PROMPT_REPEATS):
            text = f"{name} answers exactly like the base: its weights change nothing in this model."
            raise RefusedError("SilentNoOp", text)
        logger.info("no clear effect beside the engine's noise", extra={"fields": {"version": name}})
        return ready(record)

    async def _reading(self, model: str, repeats: int) -> list[Step] | None:
        if self._base.longest is None:
            self._base.longest = await self._engine.longest()
        return await self._engine.continuation(model, self._base.longest, repeats)

    async def _base_reading(self, repeats: int) -> tuple[list[Step], list[Step]] | None:
        """Two readings of the base, made once per engine process; None when it cannot be read now."""
        if repeats not in self._base.readings:
            try:
                first = await self._reading(self._base.name, repeats)
                again = await self._reading(self._base.name, repeats)
            except RefusedError as error:  # not the version's doing
                logger.warning("the base cannot be probed: %s", error)
                return None
            if first is None or again is None:
                return None
            self._base.readings[repeats] = (first, again)
        return self._base.readings[repeats]


def _late(record: Record, message: str, now: float) -> Record:
    """A load that is late counts as an attempt; a probe waits behind the requests of others."""
    if record.phase == "Verifying":
        return postponed(record, message, now)
    return failed(record, "LoadFailed", message, now, retry=True)


def _remove_other_folders(root: Path, kept: set[str]) -> None:
    """Delete copies of unlisted digests; a copy under way is called `.<digest>.partial`."""
    for folder in root.iterdir() if root.is_dir() else ():
        if folder.is_dir() and folder.name.strip(".").removesuffix(".partial") not in kept:
            shutil.rmtree(folder, ignore_errors=True)
