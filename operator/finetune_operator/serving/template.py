"""Which pod template a server runs: the one it has, until its spec or spec.upgrade asks for a new one.

Image and arguments, environment and probes belong together, and all of them come from the operator and its
settings. So the whole template is kept, in a ControllerRevision that the status names: an upgrade of the
operator or a change of its settings rolls no server, and a Deployment that was edited or deleted comes back.
A template that no rollout has completed with protects nothing: it follows the settings, which may be wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from finetune_operator.api.modelserver import ModelServer
from finetune_operator.api.modelserverstatus import TEMPLATE_LIMIT, InlineTemplate, TemplateRecord
from finetune_operator.contracts.digests import digest_of
from finetune_operator.contracts.settings import Settings
from finetune_operator.core.actions import Action, Create, Delete, Manifest
from finetune_operator.core.manifests import condition, integer, items, mapping, name_of, text, uid_of
from finetune_operator.render.names import labels, pod_selector, revision_name
from finetune_operator.serving.children import SPEC, intent_of, template_revision
from finetune_operator.serving.drift import difference
from finetune_operator.serving.observed import Observed, slots_of
from finetune_operator.serving.pod import pod_template

UPDATE_AVAILABLE = "UpdateAvailable"
Cause: TypeAlias = Literal["Spec", "Revision", "Automatic"]
_NOT_OF_PODS: dict[str, bool | set[str]] = {
    "replicas": True,
    "upgrade": True,
    "limits": True,
    "api_keys": {"allowed_aliases"},
}


@dataclass(frozen=True)
class Upgrade:
    """What rendering today would change; `waits_for` is the ModelServer whose upgrade comes first."""

    changes: str
    waits_for: str | None = None


@dataclass(frozen=True)
class Template:
    """The pod template in force, and the upgrade that waits."""

    body: Manifest
    record: TemplateRecord
    upgrade: Upgrade | None = None

    @property
    def name(self) -> str:
        """The ControllerRevision that holds it."""
        return self.record.controller_revision

    @property
    def image(self) -> str:
        """The image of the gateway, which is that of every container unless an administrator changes it."""
        return next((text(c, "image") for c in items(self.body, "spec", "containers")), "")

    @property
    def engine_slots(self) -> int | None:
        """How many adapters the engine holds, as its arguments say."""
        return slots_of(self.body)


def refused(server: ModelServer, settings: Settings) -> tuple[str, str] | None:
    """A reason and a sentence where the spec asks for what the administrator lacks or does not allow, or for
    more than is kept.
    """
    unknown = settings.gpu_type_problem(server.spec.resources.gpu_type)
    if unknown is not None:
        return "UnknownGpuType", unknown
    unknown = settings.engine_profile_problem("spec.engineProfile", server.spec.engine_profile)
    if unknown is not None:
        return "UnknownEngineProfile", unknown
    forbidden = settings.permission_problem(server.spec.pod_template, server.spec.scheduling)
    if forbidden is not None:
        return "NotAllowed", forbidden
    size = len(_as_text(_rendered(server, settings)))
    if size <= TEMPLATE_LIMIT:
        return None
    message = (
        f"The pod template has {size} characters, {TEMPLATE_LIMIT} are allowed; shorten the annotations in "
        "spec.podTemplate, or ask the administrator to shorten the operator's settings."
    )
    return "TemplateTooLarge", message


def chosen(observed: Observed, settings: Settings) -> Template | None:
    """The template to apply: of what is refused the one before, None where there is none yet."""
    server = observed.server
    kept = _kept(observed)
    if refused(server, settings) is not None:
        return kept
    fresh = _rendered(server, settings)
    cause = _cause(server, kept)
    if kept is None or cause is not None:
        return _recorded(server, fresh, cause or "Spec")
    if not _remembered(observed) and difference(fresh, kept.body) is None:
        return _recorded(server, fresh, "Spec")  # the same but for the API server's defaults
    changes = _changes(kept.body, fresh)
    if not changes:
        return kept
    if kept.record.proven is False:
        return _recorded(server, fresh, kept.record.cause)
    upgrade = Upgrade(changes, _first(server, observed.peers))
    if server.spec.upgrade.policy == "Automatic" and _told(server) and upgrade.waits_for is None:
        return _recorded(server, fresh, "Automatic")
    return Template(kept.body, kept.record, upgrade)


def proven(template: Template, observed: Observed, intent: Manifest) -> Template:
    """The template with the note that its rollout has completed, once it has and a pod of it is ready."""
    ready = any(pod.ready for pod in observed.live)
    if template.record.proven is not False or not ready or not rolled_out(observed.deployment, intent):
        return template
    return replace(template, record=template.record.model_copy(update={"proven": True}))


def stored(observed: Observed, template: Template | None) -> bool:
    """Whether the ControllerRevision that the status names is there and holds the template."""
    live = observed.revision
    return template is not None and observed.owns(live) and name_of(live or {}) == template.name


def keeping(observed: Observed, template: Template) -> list[Action]:
    """Keep the template, and nothing of earlier ones once the status names it."""
    if not stored(observed, template):
        number = 1 + max((integer(one, "revision") or 0 for one in observed.revisions), default=0)
        return [Create(template_revision(observed.server, template.name, template.body, number))]
    return [
        Delete("apps/v1", "ControllerRevision", name_of(one), uid_of(one), optional=True)
        for one in observed.revisions
        if observed.owns(one) and name_of(one) != template.name
    ]


def in_force(server: ModelServer, template: Template | None) -> bool:
    """Whether the template is that of the spec as it is now."""
    return template is not None and template.record.spec_digest == _spec_digest(server)


def rolled_out(live: Manifest | None, intent: Manifest | None) -> bool:
    """Whether every pod was replaced by one of the intended Deployment; what becomes of those later does not
    matter.
    """
    if intent is None or intent_of(live) != intent_of(intent):
        return False
    seen = integer(live, "status", "observedGeneration") or 0
    if seen < (integer(live, "metadata", "generation") or 0):
        return False
    return text(condition(live, "Progressing"), "reason") == "NewReplicaSetAvailable"


def waits_for_turn(server: ModelServer) -> bool:
    """Whether the server upgrades by itself and has said that there is something to take."""
    return server.spec.upgrade.policy == "Automatic" and _told(server)


def _told(server: ModelServer) -> bool:
    found = server.status.condition(UPDATE_AVAILABLE)
    return found is not None and found.status == "True"


def _first(server: ModelServer, peers: Sequence[ModelServer]) -> str | None:
    """One at a time: the server that is being upgraded, else the first by name of those that wait."""
    upgrading = sorted(map(_full_name, filter(_upgrading, peers)))
    earlier = sorted(_full_name(peer) for peer in peers if waits_for_turn(peer))
    earlier = [name for name in earlier if name < _full_name(server)]
    return next(iter([*upgrading, *earlier]), None)


def _upgrading(peer: ModelServer) -> bool:
    found = peer.status.condition(UPDATE_AVAILABLE)
    return found is not None and found.reason == "Upgrading"


def _full_name(server: ModelServer) -> str:
    return f"{server.metadata.namespace}/{server.metadata.name}"


def _rendered(server: ModelServer, settings: Settings) -> Manifest:
    rendered = pod_template(
        server, settings, settings.images.serving, {**labels(server), **pod_selector(server)}
    )
    plain: Manifest = json.loads(json.dumps(rendered))
    return plain


def _as_text(body: Manifest) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _recorded(server: ModelServer, body: Manifest, cause: Cause) -> Template:
    record = TemplateRecord(
        controller_revision=revision_name(server, digest_of(body)),
        spec_digest=_spec_digest(server),
        revision=server.spec.upgrade.revision,
        cause=cause,
        proven=False,
    )
    return Template(body, record)


def _kept(observed: Observed) -> Template | None:
    """The recorded template; where nobody remembers one, that of the Deployment that is there."""
    server = observed.server
    if server.status.template is not None and (body := _held(observed)):
        return Template(body, server.status.template)
    return _inline(server, server.status.pod_template) or _of_deployment(observed)


def _held(observed: Observed) -> Manifest:
    """What the ControllerRevision holds that the status names, empty without one of ours; the name tells
    whether it was made for this content.
    """
    live, server = observed.revision, observed.server
    body = mapping(live, "data", "spec", "template")
    named = live is not None and name_of(live) == revision_name(server, digest_of(body))
    return body if named and observed.owns(live) else {}


def _remembered(observed: Observed) -> bool:
    server = observed.server
    return bool(_held(observed)) or _inline(server, server.status.pod_template) is not None


def _inline(server: ModelServer, kept: InlineTemplate | None) -> Template | None:
    """The template that an earlier operator kept in the status."""
    body = _parsed(kept)
    if kept is None or body is None:
        return None
    known = kept.model_dump(exclude={"template"})
    return Template(body, TemplateRecord(controller_revision=revision_name(server, digest_of(body)), **known))


def _of_deployment(observed: Observed) -> Template | None:
    server, live = observed.server, observed.deployment
    if not observed.owns(live):
        return None
    body = mapping(live, "spec", "template")
    if len(_as_text(body)) > TEMPLATE_LIMIT:
        return None
    found = _recorded(server, body, "Spec")
    rendered_from = text(live, "metadata", "annotations", SPEC) or found.record.spec_digest
    known = {"spec_digest": rendered_from, "proven": None}
    return Template(found.body, found.record.model_copy(update=known))


def _parsed(kept: InlineTemplate | None) -> Manifest | None:
    try:
        body = json.loads(kept.template) if kept is not None else None
    except (ValueError, RecursionError):  # a status that somebody else wrote
        return None
    return body if isinstance(body, dict) else None


def _cause(server: ModelServer, kept: Template | None) -> Cause | None:
    if kept is None or kept.record.spec_digest != _spec_digest(server):
        return "Spec"
    return "Revision" if kept.record.revision != server.spec.upgrade.revision else None


def _spec_digest(server: ModelServer) -> str:
    """What the user wrote of the pods; a field that a newer operator brings counts once it is set."""
    given = server.spec.model_dump(
        mode="json", by_alias=True, exclude=_NOT_OF_PODS, exclude_unset=True, exclude_none=True
    )
    return digest_of(given)


def _changes(kept: Manifest, fresh: Manifest) -> str:
    """What rendering today would change, "" when nothing."""
    found = [*_images(kept, fresh), *_arguments(kept, fresh)]
    if not found and (path := difference(fresh, kept) or difference(kept, fresh)) is not None:
        found.append(f"pod template ({path})")
    return "; ".join(found)


def _images(kept: Manifest, fresh: Manifest) -> Iterator[str]:
    before, after = ({text(c, "image") for c in _containers(body)} for body in (kept, fresh))
    if before != after:
        yield f"image {_list(before - after)} -> {_list(after - before)}"


def _arguments(kept: Manifest, fresh: Manifest) -> Iterator[str]:
    before = {text(container, "name"): _arguments_of(container) for container in _containers(kept)}
    for container in _containers(fresh):
        name, after = text(container, "name"), _arguments_of(container)
        old = before.get(name, [])
        if old != after:
            gone, new = [a for a in old if a not in after], [a for a in after if a not in old]
            yield f"arguments of {name}: {_list(gone)} -> {_list(new)}"


def _arguments_of(container: Mapping[str, Any]) -> list[str]:
    """The command line; the administrator's engine arguments are an environment variable."""
    engine = [
        text(entry, "value") for entry in items(container, "env") if entry.get("name") == "FT_ENGINE_ARGS"
    ]
    args = container.get("args")
    return [*(map(str, args) if isinstance(args, list) else ()), *engine]


def _containers(body: Manifest) -> list[Mapping[str, Any]]:
    return [*items(body, "spec", "initContainers"), *items(body, "spec", "containers")]


def _list(values: Any) -> str:
    return " ".join(sorted(map(str, values))) or "none"
