"""The three kinds: how each is observed and who plans for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Plan, Refusal
from finetune_operator.rollout.plan import plan as plan_rollout
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.cache.store import Stores
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.observers.jobs import JobObserver
from finetune_operator.runtime.observers.lookups import Lookups
from finetune_operator.runtime.observers.rollouts import RolloutObserver
from finetune_operator.runtime.observers.servers import ServerObserver
from finetune_operator.runtime.pods import Poller
from finetune_operator.runtime.resources import Key
from finetune_operator.serving.plan import plan as plan_server
from finetune_operator.stages.plan import plan as plan_job

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

O = TypeVar("O", bound="DataclassInstance", covariant=True)  # noqa: E741
Decide: TypeAlias = Callable[[Refusal | None], Plan]


class Observer(Protocol[O]):
    """Reads the world around one object."""

    def __call__(self, owner: Object, /) -> Awaitable[O]:
        """Everything that the plan may look at; raises ApiError."""
        ...

    def forget(self, key: Key, /) -> None:
        """The object is gone, and with it what is kept for it."""
        ...


@dataclass(frozen=True)
class Controller(Generic[O]):
    """`plan` decides on what `observer` reads; it is pure."""

    observer: Observer[O]
    plan: Callable[[O, Settings, datetime], Plan]
    settings: Settings
    now: Callable[[], datetime]

    async def observe(self, owner: Object) -> Decide:
        """Read the world around an object; returns the plan for it, with or without a refusal in view."""
        observed = await self.observer(owner)

        def decide(refusal: Refusal | None) -> Plan:
            seen = observed if refusal is None else replace(observed, refusal=refusal)
            return self.plan(seen, self.settings, self.now())

        return decide

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self.observer.forget(key)


class AnyController(Protocol):
    """A controller of whatever kind."""

    async def observe(self, owner: Object) -> Decide:
        """The plan for what is around an object; raises ApiError."""
        ...

    def forget(self, key: Key) -> None:
        """The object is gone."""
        ...


def controllers(
    api: Api, owners: Owners, stores: Stores, poller: Poller, lookups: Lookups, settings: Settings,
    now: Callable[[], datetime],
) -> Mapping[str, AnyController]:  # fmt: skip
    """The controller of each kind."""
    jobs = JobObserver(api, owners, stores, lookups, poller, now)
    return {
        "FineTuneJob": Controller(jobs, plan_job, settings, now),
        "ModelServer": Controller(
            ServerObserver(api, owners, stores, lookups, poller), plan_server, settings, now
        ),
        "AdapterDeployment": Controller(RolloutObserver(owners), plan_rollout, settings, now),
    }
