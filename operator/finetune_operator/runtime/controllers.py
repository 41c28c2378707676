"""The three kinds: how each is observed and who plans for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Plan
from finetune_operator.rollout.plan import plan as plan_rollout
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.fetch import Fetch
from finetune_operator.runtime.observe_job import JobObserver
from finetune_operator.runtime.observe_rollout import RolloutObserver
from finetune_operator.runtime.observe_server import ServerObserver
from finetune_operator.runtime.stores import Stores
from finetune_operator.serving.plan import plan as plan_server
from finetune_operator.stages.plan import plan as plan_job


@dataclass(frozen=True)
class Controller:
    """`observe` reads the world around one live object, `plan` decides on what was observed (pure)."""

    observe: Callable[[Object], Awaitable[Any]]
    plan: Callable[[Any, Settings, datetime], Plan]


def controllers(
    api: Api, stores: Stores, fetch: Fetch, settings: Settings, clock: Callable[[], float]
) -> Mapping[str, Controller]:
    """The controller of each kind."""
    job = JobObserver(api, stores, fetch, clock, settings.progress_seconds)
    return {
        "FineTuneJob": Controller(job, plan_job),
        "ModelServer": Controller(ServerObserver(api, stores, fetch), plan_server),
        "AdapterDeployment": Controller(RolloutObserver(api), plan_rollout),
    }
