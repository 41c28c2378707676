"""Observes an AdapterDeployment: the run and the server that it names."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from finetune_operator.api.adapterdeployment import AdapterDeployment
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.rollout.observed import Observed
from finetune_operator.runtime.cache.owners import Owners
from finetune_operator.runtime.client import Object
from finetune_operator.runtime.observers.servers import first_problem
from finetune_operator.runtime.resources import Key


@dataclass(frozen=True)
class RolloutObserver:
    """All that it names are objects of ours."""

    owners: Owners

    async def __call__(self, owner: Object) -> Observed:
        """Read everything that the plan for this deployment may look at."""
        deployment = AdapterDeployment.model_validate(owner)
        server = self._named(deployment, "ModelServer", deployment.spec.server_ref.name)
        try:
            return Observed(
                deployment,
                self._run(deployment),
                None if server is None else ModelServer.model_validate(server),
            )
        except ValidationError as error:
            message = f"{error.title} of this AdapterDeployment cannot be read: {first_problem(error)}"
            return Observed(deployment, None, None, unreadable=message)

    def forget(self, key: Key) -> None:
        """Nothing is kept of a deployment."""

    def _run(self, deployment: AdapterDeployment) -> FineTuneJob | None:
        reference = deployment.spec.adapter.fine_tune_job_ref
        if reference is None:
            return self._publisher(deployment)
        job = self._named(deployment, "FineTuneJob", reference.name)
        return None if job is None else FineTuneJob.model_validate(job)

    def _publisher(self, deployment: AdapterDeployment) -> FineTuneJob | None:
        """The run that published a digest is not named, so one that cannot be read is none."""
        job = self.owners.publishing(deployment.metadata.namespace, deployment.spec.adapter.digest or "")
        try:
            return None if job is None else FineTuneJob.model_validate(job)
        except ValidationError:
            return None

    def _named(self, deployment: AdapterDeployment, kind: str, name: str) -> Object | None:
        return self.owners.get(Key(kind, deployment.metadata.namespace, name))
