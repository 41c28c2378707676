"""What keeps a stage from starting: the user, the budget, a missing object. It is named and waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_operator.api.evaluation.services import ScoringEngine
from finetune_operator.api.finetunejob import FineTuneJob
from finetune_operator.api.finetunejobstatus import StageName
from finetune_operator.api.modelserver import ModelServer
from finetune_operator.contracts.settings import Settings, scoring_profile_problem
from finetune_operator.core.manifests import mapping, text
from finetune_operator.core.sources import SourceError
from finetune_operator.observe.queue import queue_problem
from finetune_operator.render.job import access_mode
from finetune_operator.render.names import workspace_name
from finetune_operator.render.resources import gpus
from finetune_operator.render.volumes import sources, workspace_claim
from finetune_operator.stages.decision import evaluated
from finetune_operator.stages.money import excess, pays_judge, price_problem
from finetune_operator.stages.observed import Observed, Run

SUSPENDED = "spec.suspend is true; set it to false to go on from where the run stopped."


@dataclass(frozen=True)
class Blocker:
    """Why no pod of a stage may run, in a word and a sentence that names the object and the remedy.

    `stalled`: nothing happens until a person mends it, and nobody meant it so.
    """

    reason: str
    message: str
    stalled: bool = True


def halt(run: Run, stage: StageName, *, reemits: bool) -> Blocker | None:
    """Why a stage must not run although it could: the run is suspended, or its budget used up."""
    if run.job.spec.suspend:
        return Blocker("Suspended", SUSPENDED, stalled=False)
    costs = (gpus(run.job, stage) or pays_judge(run.job, stage)) and not reemits
    message = excess(run.job, run.status, run.now) if costs else None
    return None if message is None else Blocker("BudgetExceeded", message, stalled=False)


def blocker(run: Run, stage: StageName, *, reemits: bool) -> Blocker | None:
    """The first thing that keeps a stage from starting; one that `reemits` needs neither GPU nor queue."""
    observed = run.observed
    checks: tuple[Callable[[], Iterator[Blocker]], ...] = (
        lambda: _evaluation(observed),
        lambda: _gpu_type(observed, run.settings),
        lambda: _engine_profile(observed, run.settings),
        lambda: _permission(observed, run.settings),
        lambda: _scoring_server(run, stage),
        lambda: iter(()) if reemits else _queue(observed, stage),
        lambda: iter(()) if reemits else _price(observed, run.settings),
        lambda: _addresses(observed, stage),
        lambda: _workspace(observed, stage),
        lambda: _credentials(observed),
    )
    halted = halt(run, stage, reemits=reemits)
    return halted or next((found for check in checks for found in check()), None)


def _evaluation(observed: Observed) -> Iterator[Blocker]:
    job = observed.job
    if not evaluated(job) and "EvalMissing" not in job.spec.accepted:
        yield Blocker(
            "EvalMissing",
            "Nobody could say whether the result is better: set spec.evaluation.dataset and graders, or add "
            "EvalMissing to spec.evaluation.accept.",
        )


def _gpu_type(observed: Observed, settings: Settings) -> Iterator[Blocker]:
    problem = settings.gpu_type_problem(observed.job.spec.resources.gpu_type)
    if problem is not None:
        yield Blocker("UnknownGpuType", problem)


def _engine_profile(observed: Observed, settings: Settings) -> Iterator[Blocker]:
    problem = scoring_profile_problem(observed.job, settings)
    if problem is not None:
        yield Blocker("UnknownEngineProfile", problem)


def _permission(observed: Observed, settings: Settings) -> Iterator[Blocker]:
    spec = observed.job.spec
    problem = settings.permission_problem(spec.pod_template, spec.scheduling)
    if problem is not None:
        yield Blocker("NotAllowed", problem)


def _scoring_server(run: Run, stage: StageName) -> Iterator[Blocker]:
    """What is wrong with the ModelServer that should score: by the specs, and after prepare by the base."""
    engine, server = run.job.spec.scoring_engine, run.observed.server
    if engine is None or not evaluated(run.job) or stage not in ("prepare", "baseline", "evaluate"):
        return
    if server is None:
        missing = f"spec.evaluation.engine names ModelServer {engine.server_ref.name}, which does not exist; "
        yield Blocker("ServerNotFound", run.observed.server_problem or f"{missing}create it.")
        return
    yield from _fits(run.job, engine, server)
    if stage != "prepare":
        yield from _at_rest(server)
        yield from _same_base(run, server)


def _fits(job: FineTuneJob, engine: ScoringEngine, server: ModelServer) -> Iterator[Blocker]:
    name, spec = server.metadata.name, server.spec
    destination, keys = job.spec.output.destination, spec.api_keys
    if spec.max_loras == 0:
        yield Blocker(
            "BaseOnly", f"ModelServer {name} serves its base alone (maxLoras: 0); name another one."
        )
    if not destination.startswith(f"pvc://{spec.store_claim}/"):
        yield Blocker(
            "OutsideStore",
            f"ModelServer {name} reads adapters from {spec.artifact_store}, and spec.output.destination is "
            f"{destination}: choose a destination there in a new FineTuneJob.",
        )
    if keys is not None and (engine.api_key is None or engine.api_key.name != keys.secret_ref.name):
        yield Blocker(
            "ApiKeyMissing",
            f"ModelServer {name} asks for a key: set spec.evaluation.engine.apiKey to an entry of Secret "
            f"{keys.secret_ref.name} in a new FineTuneJob.",
        )
    allowed = {one.name: one.aliases for one in keys.allowed_aliases} if keys is not None else {}
    if engine.api_key is not None and spec.base_name not in allowed.get(
        engine.api_key.key, (spec.base_name,)
    ):
        yield Blocker(
            "ApiKeyNotAllowed",
            f"The base has to be scored too: add {spec.base_name} to what the key {engine.api_key.key} may "
            f"call, spec.apiKeys.allowedAliases of ModelServer {name}.",
        )


def _at_rest(server: ModelServer) -> Iterator[Blocker]:
    """Answers are kept under the pod template that gave them, so all pods must be of one, the server's."""
    name, status, asked = server.metadata.name, server.status, server.spec.base_model.fingerprint
    if server.spec.replicas == 0:
        message = f"ModelServer {name} is scaled to zero; set its spec.replicas to 1 or more."
        yield Blocker("ServerStopped", message, stalled=False)
    behind = (status.observed_generation or 0) < (server.metadata.generation or 0)
    if behind or (status.template is not None and status.template.proven is False):
        message = f"ModelServer {name} is rolling out its pods; scoring begins once all of them are replaced."
        yield Blocker("ServerRolling", message, stalled=False)
    if None not in (asked, status.base_fingerprint) and asked != status.base_fingerprint:
        message = (
            f"ModelServer {name} asks for the base {str(asked)[:19]} in spec.baseModel.fingerprint, and its "
            f"pods have {str(status.base_fingerprint)[:19]}; scoring begins once they have that one."
        )
        yield Blocker("ServerRolling", message, stalled=False)


def _same_base(run: Run, server: ModelServer) -> Iterator[Blocker]:
    name, resolved = server.metadata.name, run.status.resolved
    trained = resolved.base_fingerprint if resolved is not None else None
    here = server.status.base_fingerprint
    if here is None:
        message = f"No replica of ModelServer {name} has told the fingerprint of its base yet."
        yield Blocker("ServerNotReady", message, stalled=False)
    elif trained is not None and trained not in (here, server.spec.base_model.derived_from):
        yield Blocker(
            "OtherBase",
            f"The run tunes the base {trained[:19]}, and ModelServer {name} has {here[:19]}: create a "
            "FineTuneJob for a ModelServer with the base that it tunes.",
        )
    lora = resolved.lora if resolved is not None else None
    if lora is not None and lora.rank is not None and lora.rank > server.spec.max_lora_rank:
        yield Blocker(
            "RankTooLarge",
            f"The adapter has rank {lora.rank}, and ModelServer {name} takes {server.spec.max_lora_rank} at "
            "most; raise its spec.maxLoraRank.",
        )


def _queue(observed: Observed, stage: StageName) -> Iterator[Blocker]:
    problem = queue_problem(observed.job, stage, kueue=observed.kueue)
    if problem is not None:
        yield Blocker("KueueNotInstalled", problem)


def _price(observed: Observed, settings: Settings) -> Iterator[Blocker]:
    problem = price_problem(observed.job, settings)
    if problem is not None:
        yield Blocker("NoPrice", problem)


def _addresses(observed: Observed, stage: str) -> Iterator[Blocker]:
    try:
        found = sources(observed.job)
    except SourceError as error:
        yield Blocker("InvalidSource", str(error))
        return
    for field, source in found.items():
        if source.scheme == "pvc" and (stage == "prepare" or "dataset" not in field):
            yield from _claim(observed, field, source.claim or "")
        if source.scheme == "configmap" and stage == "prepare":
            yield from _config_map(observed, field, source.name or "", source.path)


def _claim(observed: Observed, field: str, claim: str) -> Iterator[Blocker]:
    if claim not in observed.claims:
        yield Blocker(
            "ClaimNotFound",
            f"{field} names PersistentVolumeClaim {claim}, which is not in this namespace; create it.",
        )
    elif text(observed.claims[claim], "status", "phase") == "Lost":
        message = f"{field} names PersistentVolumeClaim {claim}, whose volume is lost; create it again."
        yield Blocker("ClaimLost", message)


def _config_map(observed: Observed, field: str, name: str, key: str) -> Iterator[Blocker]:
    if name not in observed.configmaps:
        yield Blocker(
            "ConfigMapNotFound",
            f"{field} names ConfigMap {name}, which is not in this namespace; create it with the key {key}.",
        )
    elif f"{name}/{key}" not in observed.configmaps:
        message = f"{field} names the key {key}, which ConfigMap {name} does not have; add it."
        yield Blocker("ConfigMapKeyNotFound", message)


def _workspace(observed: Observed, stage: str) -> Iterator[Blocker]:
    job = observed.job
    claim = workspace_claim(job)
    ours = claim == workspace_name(job)
    found = observed.claims.get(claim)
    if found is None:
        if not ours:
            yield from _claim(observed, "spec.workspace.claimName", claim)
        elif stage != "prepare":
            yield Blocker(
                "WorkspaceLost",
                f"PersistentVolumeClaim {claim}, the workspace of this run, was deleted, and with it the "
                "prepared data and the checkpoints; delete this FineTuneJob and create it again.",
            )
        return
    modes = mapping(found, "spec").get("accessModes")
    shared = isinstance(modes, (list, tuple)) and "ReadWriteMany" in modes
    if access_mode(job) == "ReadWriteMany" and not shared:
        yield Blocker(
            "WorkspaceNotShared",
            f"spec.resources.nodes is {job.spec.resources.nodes}, so the workspace must be ReadWriteMany, "
            f"which PersistentVolumeClaim {claim} is not; name another claim in a new FineTuneJob.",
        )


def _credentials(observed: Observed) -> Iterator[Blocker]:
    references = {name: data.credentials_secret_ref for name, data in observed.job.spec.datasets.items()}
    named = [(field, reference.name) for field, reference in references.items() if reference is not None]
    differing = next(((field, secret) for field, secret in named if secret != named[0][1]), None)
    if differing is not None:
        (first, one), (other, another) = named[0], differing
        yield Blocker(
            "CredentialsDiffer",
            f"{first} and {other} name different Secrets ({one}, {another}); one Secret serves all data "
            "sets, so name the same Secret in a new FineTuneJob.",
        )
