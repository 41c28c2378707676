"""Whether the CRDs that the API server serves are those of this operator."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from finetune_operator.core.actions import Manifest
from finetune_operator.core.manifests import items, mapping, text
from finetune_operator.runtime.client import Api, ApiError
from finetune_operator.runtime.metrics import Metrics
from finetune_operator.runtime.process.lifecycle import StartError
from finetune_operator.runtime.resources import GROUP, OURS, VERSION

API_VERSION = f"{GROUP}/{VERSION}"
APPLY = "`kubectl apply --server-side -f crds/`, or the Helm chart with `crds.enabled=true`"
NAMED = 20  # fields in one line of the log
log = logging.getLogger(__name__)


async def require_crds(api: Api) -> None:
    """StartError unless all are there: kopf idles forever when one is missing at its start."""
    found = await api.document(f"/apis/{API_VERSION}")
    known = {text(resource, "name") for resource in items(found, "resources")}
    missing = [resource.plural for resource in OURS if resource.plural not in known]
    if missing:
        raise StartError(
            f"The API server does not know {', '.join(missing)} of {API_VERSION}. Install the CRDs first: "
            f"{APPLY}."
        )


async def tell_missing_fields(api: Api, schemas: Mapping[str, Manifest], metrics: Metrics) -> None:
    """Say which fields of ours the installed CRDs lack; `schemas` are ours by kind.

    The server drops such fields, so what they would tell is lost, but nothing else: the operator goes on.
    """
    try:
        served = await api.document(f"/openapi/v3/apis/{API_VERSION}")
    except ApiError as error:
        log.warning("the schemas of the CRDs cannot be read", extra={"error": str(error)})
        return
    for kind, ours in schemas.items():
        found = _schema_of(mapping(served, "components", "schemas"), kind)
        lacking = sorted(missing_fields(ours, found)) if found else []
        metrics.crd_lacks(kind, len(lacking))
        if lacking:
            log.warning(
                "the CRD of %s is older than this operator and lacks fields, which are lost: apply %s",
                *(kind, APPLY),
                extra={"kind": kind, "fields": lacking[:NAMED], "count": len(lacking)},
            )


def missing_fields(ours: Manifest, theirs: Manifest, path: str = "") -> Iterator[str]:
    """The paths of spec and status that only our schema has; members of lists and maps are `[]`."""
    if theirs.get("x-kubernetes-preserve-unknown-fields") is True:
        return
    known = mapping(theirs, "properties")
    for name, schema in mapping(ours, "properties").items():
        inner = f"{path}.{name}" if path else name
        if inner in ("apiVersion", "kind", "metadata"):
            continue
        if name in known:
            yield from missing_fields(schema, known[name], inner)
        else:
            yield inner
    for members in ("items", "additionalProperties"):
        if mapping(ours, members) and mapping(theirs, members):
            yield from missing_fields(mapping(ours, members), mapping(theirs, members), f"{path}[]")


def _schema_of(schemas: Manifest, kind: str) -> Manifest:
    for schema in schemas.values():
        for named in items(schema, "x-kubernetes-group-version-kind"):
            if (text(named, "group"), text(named, "version"), text(named, "kind")) == (GROUP, VERSION, kind):
                return mapping(schema)
    return {}
