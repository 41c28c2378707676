"""Plays a scenario under an attack and judges what happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_operator.runtime.reconciler import REWRITE_SECONDS
from tests.faults.attacks import Attack, AttackFailed
from tests.faults.cluster.client import Object
from tests.faults.cluster.controlplane import Cluster
from tests.faults.cluster.history import History
from tests.faults.cluster.nodes import Cast
from tests.faults.ends import differences, essence
from tests.faults.operators.processes import Operators
from tests.faults.operators.proxy import Write
from tests.faults.oracles import OWN, log_violations, violations
from tests.faults.scenarios.scenario import Scenario, World

SETTLE_SECONDS = REWRITE_SECONDS + 1.0


@dataclass(frozen=True)
class Outcome:
    """One play: how it ended, what the operators wrote, and what was wrong."""

    scenario: str
    attack: str
    end: Mapping[str, Any]
    writes: tuple[Write, ...]
    lives: int
    revisions: int
    seconds: float
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Player:
    """Plays on one cluster; `quiet` is for how many seconds after the end nothing may be written."""

    cluster: Cluster
    quiet: float

    async def play(
        self, scenario: Scenario, attack: Attack, namespace: str, expected: Mapping[str, Any] | None
    ) -> Outcome:
        """Play once; `expected` is the end of the undisturbed play, None for that play itself."""
        started = time.monotonic()
        await self.cluster.make_namespace(namespace)
        self.cluster.nodes.play(namespace, Cast(scenario.fates, scenario.default, scenario.dying))
        history = self.cluster.hub.history(namespace)
        world = World(self.cluster.client, namespace, history)
        folder = self.cluster.folder / "plays" / namespace
        async with Operators(self.cluster.forks, self.cluster.client, folder, namespace) as operators:
            wrong = await self._act(scenario, attack, operators, world)
            objects = dict(history.objects)
        revisions, end = history.in_order(), essence(objects, scenario.vague)
        writes = tuple(_written(operators))
        if expected is not None and not wrong:
            wrong += differences(expected, end)
        wrong += [
            *violations(revisions),
            *log_violations(operators.messages(), attack.told),
            *_useless(writes),
        ]
        self.cluster.nodes.leave(namespace)
        self.cluster.hub.forget(namespace)
        return Outcome(
            scenario=scenario.name,
            attack=attack.name,
            end=end,
            writes=writes,
            lives=len(operators.lives),
            revisions=len(revisions),
            seconds=time.monotonic() - started,
            violations=tuple(wrong),
        )

    async def _act(self, scenario: Scenario, attack: Attack, operators: Operators, world: World) -> list[str]:
        script = asyncio.create_task(scenario.script(world))
        attacking = asyncio.create_task(attack.run(operators, world))
        try:
            async with asyncio.timeout(scenario.limit_seconds):
                await asyncio.wait([script, attacking], return_when=asyncio.FIRST_COMPLETED)
                if attacking.done():
                    attacking.result()
                await script
            return await self._rest(operators)
        except (AttackFailed, AssertionError) as error:
            return [str(error)]
        except TimeoutError:
            return [
                f"does not come to its end within {scenario.limit_seconds:.0f} s:\n{standing(world.history)}"
            ]
        finally:
            for task in (script, attacking):
                task.cancel()
            await asyncio.gather(script, attacking, return_exceptions=True)

    async def _rest(self, operators: Operators) -> list[str]:
        """After the end the operator, which may have begun just now, may finish what it is at; from then on it
        writes nothing.
        """
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any(life.works for life in operators.lives):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        begun = time.monotonic()
        while time.monotonic() < min(deadline, max(begun, _last_write(operators)) + SETTLE_SECONDS):  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        before = _written(operators)
        await asyncio.sleep(self.quiet)
        written = _written(operators)[len(before) :]
        return [f"writes after the end: {write.signature}" for write in written][:5]


def standing(history: History) -> str:
    """Where everything stands, for the message of a play that does not end."""
    kinds = (*OWN, "Job", "Pod", "Deployment")
    shown = [_shown(item) for kind in kinds for item in history.of(kind)]
    return str(yaml.safe_dump(shown, sort_keys=False, width=160))


def _shown(item: Object) -> Object:
    status = item.get("status") or {}
    conditions = {
        c["type"]: f"{c['status']} {c.get('reason')}: {c.get('message')}"
        for c in status.get("conditions", [])
    }
    attempts = [
        f"{a['stage']} {a['number']} {a['state']} {a.get('reason')}" for a in status.get("attempts", [])
    ]
    name = f"{item['kind']} {item['metadata']['name']}"
    return {"name": name, "conditions": conditions, "attempts": attempts, "phase": status.get("phase")}


def _last_write(operators: Operators) -> float:
    return max((life.proxy.last_write for life in operators.lives), default=0.0)


def _written(operators: Operators) -> list[Write]:
    return [write for life in operators.lives for write in life.proxy.writes]


def _useless(writes: tuple[Write, ...]) -> list[str]:
    same = [write for write in writes if not write.changed]
    return [f"{len(same)} writes changed nothing, the first {same[0].signature}"] if same else []
