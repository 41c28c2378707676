"""Many plays at a time: which ones, and what they found."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.attacks import CALM, Attack, crash
from tests.faults.play import Outcome, Player
from tests.faults.scenarios.scenario import Scenario

TOGETHER = 16
"""Plays at a time: most of a play is waiting for the Job controller, which looks once a second."""


@dataclass(frozen=True)
class Undisturbed:
    """A scenario with nothing done to the operator: what the other plays of it are compared with."""

    scenario: Scenario

    @property
    def title(self) -> str:
        """For people."""
        return self.scenario.name


@dataclass(frozen=True)
class Attacked:
    """A scenario under one attack."""

    scenario: Scenario
    attack: Attack

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.scenario.name}: {self.attack.name}"


@dataclass(frozen=True)
class Crashes:
    """A scenario with a death at some of its writes: every one, or a sample of so many sorts of writes.

    `turn` says which: over all scenarios each sort of write is met, early and late ones.
    """

    scenario: Scenario
    sample: int | None = None
    turn: int = 0

    @property
    def title(self) -> str:
        """For people."""
        return self.scenario.name

    def points(self, writes: Sequence[str]) -> list[Attack]:
        """The deaths for an undisturbed play with writes of these sorts, in their order."""
        every = list(itertools.product(range(1, len(writes) + 1), (False, True)))
        if self.sample is None:
            return [crash(write, after) for write, after in every]
        sorts: defaultdict[str, list[int]] = defaultdict(list)
        for at, sort in enumerate(writes, 1):
            sorts[sort].append(at)
        one_of_each = [
            (places[self.turn % len(places)], after) for places in sorts.values() for after in (False, True)
        ]
        stride = max(1, len(one_of_each) // self.sample)
        chosen = [one_of_each[(self.turn + stride * n) % len(one_of_each)] for n in range(self.sample)]
        return [crash(write, after) for write, after in chosen]


Trial = Undisturbed | Attacked | Crashes


class Campaign:
    """Plays trials side by side. A trial that was scheduled is awaited with `outcomes`."""

    def __init__(self, player: Player, attacked: Player):
        """`player` is for the undisturbed plays, `attacked` for the others."""
        self._player = player
        self._attacked = attacked
        self.played: list[Outcome] = []
        self._limit = asyncio.Semaphore(TOGETHER)
        self._numbers = itertools.count(1)
        self._undisturbed: dict[str, asyncio.Task[Outcome]] = {}
        self._trials: dict[Trial, asyncio.Task[list[Outcome]]] = {}

    def schedule(self, trials: Iterable[Trial]) -> None:
        """Begin with these."""
        for trial in trials:
            if trial not in self._trials:
                self._trials[trial] = asyncio.create_task(self._run(trial))

    async def outcomes(self, trial: Trial) -> list[Outcome]:
        """The outcomes of a trial."""
        self.schedule([trial])
        return await self._trials[trial]

    async def violations(self, trial: Trial) -> list[str]:
        """What was wrong in the plays of a trial, each with its attack."""
        return [f"{o.attack}: {wrong}" for o in await self.outcomes(trial) for wrong in o.violations]

    async def close(self) -> None:
        """Give up what nobody awaits."""
        tasks = [*self._trials.values(), *self._undisturbed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, trial: Trial) -> list[Outcome]:
        undisturbed = await asyncio.shield(self._undisturbed_play(trial.scenario))
        match trial:
            case Undisturbed():
                return [undisturbed]
            case Attacked(scenario, attack):
                return [await self._play(scenario, attack, undisturbed)]
            case Crashes(scenario):
                attacks = trial.points([write.signature for write in undisturbed.writes])
                plays = [self._play(scenario, attack, undisturbed) for attack in attacks]
                return list(await asyncio.gather(*plays))

    def _undisturbed_play(self, scenario: Scenario) -> asyncio.Task[Outcome]:
        if scenario.name not in self._undisturbed:
            self._undisturbed[scenario.name] = asyncio.create_task(self._play(scenario, CALM, None))
        return self._undisturbed[scenario.name]

    async def _play(self, scenario: Scenario, attack: Attack, like: Outcome | None) -> Outcome:
        name = re.sub("[^a-z]+", "-", scenario.name.lower())[:40].strip("-")
        async with self._limit:
            player = self._player if like is None else self._attacked
            expected = None if like is None else like.end
            outcome = await player.play(scenario, attack, f"{name}-{next(self._numbers)}", expected)
        self.played.append(outcome)
        return outcome
