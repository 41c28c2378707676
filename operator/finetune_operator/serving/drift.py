"""Whether a live object still is as intended, compared over what the intent sets.

The API server fills in defaults, other controllers and webhooks add entries: both are left alone. Which
lists and maps are merged by key and which are replaced whole is that of Kubernetes' own types, since
server-side apply can put back only what it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from finetune_operator.core.manifests import quantity

# Lists that server-side apply merges, by the keys that tell their items apart.
_MERGED = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ports": ("port", "containerPort", "protocol"),
}
# Maps that are one value: an entry more changes what they select.
_WHOLE = frozenset({"selector", "podSelector", "nodeSelector", "matchLabels"})
_QUANTITIES = frozenset({"requests", "limits", "sizeLimit"})


def difference(intent: Mapping[str, Any], live: Mapping[str, Any]) -> str | None:
    """The path of the first field that is not as intended, None when all are."""
    for key, wanted in intent.items():
        found = _differs(key, wanted, live.get(key))
        if found is not None:
            return key + found
    return None


def _differs(key: str, wanted: Any, live: Any) -> str | None:
    """What follows the key in the path of a difference: "" for the field itself, None without any."""
    if not wanted and not live and key != "emptyDir":
        return None  # the API server leaves out what is empty, but for the volume that is named by its key
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return _maps(key, wanted, live)
    if isinstance(wanted, (list, tuple)) and isinstance(live, (list, tuple)):
        return _merged(key, wanted, live) if key in _MERGED else _whole(wanted, live)
    return None if _equal(key, wanted, live) else ""


def _maps(key: str, wanted: Mapping[str, Any], live: Mapping[str, Any]) -> str | None:
    if key in _WHOLE and set(live) - set(wanted):
        return ""
    if key in _QUANTITIES:
        wanted, live = _quantities(wanted), _quantities(live)
    found = difference(wanted, live)
    return None if found is None else f".{found}"


def _merged(key: str, wanted: Sequence[Any], live: Sequence[Any]) -> str | None:
    found = {_identity(key, item): item for item in live if isinstance(item, Mapping)}
    for item in wanted:
        name = _identity(key, item)
        path = difference(item, found[name]) if name in found else ""
        if path is not None:
            return f"[{':'.join(filter(None, name))}]" + (f".{path}" if path else "")
    return None


def _whole(wanted: Sequence[Any], live: Sequence[Any]) -> str | None:
    """Each item as intended and nothing beside it."""
    return None if len(wanted) == len(live) and all(map(_same, wanted, live)) else ""


def _same(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return all(_same(wanted.get(key), live.get(key)) for key in {*wanted, *live})
    if isinstance(wanted, (list, tuple)) and isinstance(live, (list, tuple)):
        return _whole(wanted, live) is None
    return bool(wanted == live) or not (wanted or live)


def _identity(key: str, item: Mapping[str, Any]) -> tuple[str, ...]:
    default = {"protocol": "TCP"}
    return tuple(str(item.get(part) or default.get(part) or "") for part in _MERGED[key])


def _equal(key: str, wanted: Any, live: Any) -> bool:
    if wanted == live:
        return True
    return key in _QUANTITIES and quantity(wanted) == quantity(live) is not None


def _quantities(amounts: Mapping[str, Any]) -> dict[str, Decimal | str]:
    read = {name: quantity(value) for name, value in amounts.items()}
    return {name: str(amounts[name]) if amount is None else amount for name, amount in read.items()}
