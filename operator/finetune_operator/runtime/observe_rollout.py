"""Observes an AdapterDeployment: the run and the server that it names."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.rollout.observed import Observed
from finetune_operator.runtime.client import Api, Object
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
        return Observed(deployment, job, None if server is None else ModelServer.model_validate(server))

    async def _job(self, deployment: AdapterDeployment) -> FineTuneJob | None:
        reference = deployment.spec.adapter.fine_tune_job_ref
        if reference is None:
            return None
        found = await self.api.get(FINETUNEJOB, deployment.metadata.namespace, reference.name)
        return None if found is None else FineTuneJob.model_validate(found)
