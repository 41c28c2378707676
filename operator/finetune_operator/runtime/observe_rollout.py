"""Observes an AdapterDeployment: the run and the server that it names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.rollout.observed import Observed
from finetune_operator.runtime.client import Api, Object
from finetune_operator.runtime.observe_server import first_problem
from finetune_operator.runtime.resources import FINETUNEJOB, MODELSERVER


@dataclass(frozen=True)
class RolloutObserver:
    """Callable on the live object; both references are read live."""

    api: Api

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this deployment may look at; raises ApiError."""
        deployment = AdapterDeployment.model_validate(owner)
        namespace = deployment.metadata.namespace
        job, server = await asyncio.gather(
            self._job(deployment), self.api.get(MODELSERVER, namespace, deployment.spec.server_ref.name)
        )
        try:
            return Observed(
                deployment,
                None if job is None else FineTuneJob.model_validate(job),
                None if server is None else ModelServer.model_validate(server),
            )
        except ValidationError as error:
            message = f"{error.title} of this AdapterDeployment cannot be read: {first_problem(error)}"
            return Observed(deployment, None, None, unreadable=message)

    async def _job(self, deployment: AdapterDeployment) -> Object | None:
        reference = deployment.spec.adapter.fine_tune_job_ref
        if reference is None:
            return None
        return await self.api.get(FINETUNEJOB, deployment.metadata.namespace, reference.name)
