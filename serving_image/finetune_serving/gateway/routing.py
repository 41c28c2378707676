"""Which version answers a model name: pure decisions on an immutable table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from finetune_serving.documents import Route, ServerManifest, Target
from finetune_serving.gateway.errors import unknown_model, unknown_version


@dataclass(frozen=True)
class RouteTable:
    """The names that clients may use: the base and the aliases, each alias with its route.

    `candidates` are versions that answer to their own name, with the key that may ask (None: no key).
    """

    base: str = ""
    aliases: Mapping[str, Route] = field(default_factory=dict)
    candidates: Mapping[str, str | None] = field(default_factory=dict)

    def pairs(self) -> list[tuple[str, str]]:
        """Every name that may be asked with every version that may answer it."""
        routes = self.aliases.values()
        listed = [(route.alias, target.version) for route in routes for target in route.targets]
        listed += [(name, name) for name in self.candidates]
        return [(self.base, self.base), *listed] if self.base else listed


def table_of(manifest: ServerManifest) -> RouteTable:
    """The table of one manifest generation. The base keeps its own name whatever an alias says."""
    aliases = {route.alias: route for route in manifest.routes if route.alias != manifest.base.name}
    return RouteTable(manifest.base.name, aliases, {one.version: one.key for one in manifest.candidates})


def resolve(table: RouteTable, model: str, draw: float, asked: str = "") -> str:
    """The name under which the engine knows `model`; Refusal for a name that is not public.

    Concrete version names are deliberately not public, but for candidates, which have no other: they
    disappear with the next version. `draw` in [0, 1) picks among the targets of an alias by weight; `asked`
    names one of them instead.
    """
    if model and (model == table.base or model in table.candidates):
        if asked not in ("", model):
            raise unknown_version(model, asked, [model])
        return model
    route = table.aliases.get(model)
    if route is None:
        raise unknown_model(model)
    if not asked:
        return pick(route.targets, draw)
    listed = [target.version for target in route.targets]
    if asked not in listed:
        raise unknown_version(model, asked, listed)
    return asked


def pick(targets: Sequence[Target], draw: float) -> str:
    """The target at `draw` of the total weight; when all weights are zero, the first target."""
    weighted = [target for target in targets if target.weight > 0]
    if not weighted:
        return targets[0].version
    point = draw * sum(target.weight for target in weighted)
    for target in weighted:
        point -= target.weight
        if point < 0:
            return target.version
    return weighted[-1].version  # rounding


def steady_draw(alias: str, caller: str) -> float:
    """A number in [0, 1) that is always the same for one caller of one alias.

    Weights that grow step by step therefore only ever move callers towards the growing target.
    """
    digest = blake2b(f"{alias}\0{caller}".encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def model_cards(
    table: RouteTable, created: Mapping[str, int], max_model_len: int | None = None
) -> list[dict[str, Any]]:
    """OpenAI's model objects as vLLM extends them.

    `created` (Unix seconds) is when the base or the version was published, `max_model_len` in tokens.
    """
    cards = []
    if table.base:
        cards.append(_card(table.base, table.base, created) | {"root": table.base, "parent": None})
    for alias, route in sorted(table.aliases.items()):
        version = max(route.targets, key=lambda target: target.weight).version
        cards.append(_card(alias, version, created) | {"root": version, "parent": table.base})
    return cards if max_model_len is None else [card | {"max_model_len": max_model_len} for card in cards]


def _card(name: str, version: str, created: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created.get(version, 0),
        "owned_by": "finetune-operator",
    }
