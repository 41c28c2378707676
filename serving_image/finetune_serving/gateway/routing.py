"""Which version answers a model name: pure decisions on an immutable table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_serving.documents import ServerManifest, Target


@dataclass(frozen=True)
class RouteTable:
    """The names that clients may use: the base and the aliases, each alias with its weighted versions."""

    base: str = ""
    aliases: Mapping[str, tuple[Target, ...]] = field(default_factory=dict)

    def versions(self) -> frozenset[str]:
        """Every version that some alias may be answered with."""
        return frozenset(t.version for targets in self.aliases.values() for t in targets)


def table_of(manifest: ServerManifest) -> RouteTable:
    """The table of one manifest generation. The base keeps its own name whatever an alias says."""
    aliases = {r.alias: r.targets for r in manifest.routes if r.alias != manifest.base.name}
    return RouteTable(manifest.base.name, aliases)


def resolve(table: RouteTable, model: str, draw: float) -> str | None:
    """The name under which the engine knows `model`; None for a name that is not public.

    Concrete version names are deliberately not public: they disappear with the next version. `draw` is
    uniform in [0, 1) and picks among the targets of an alias by weight.
    """
    if model and model == table.base:
        return table.base
    targets = table.aliases.get(model)
    return pick(targets, draw) if targets else None


def pick(targets: Sequence[Target], draw: float) -> str:
    """The target at `draw` of the total weight; when all weights are zero, the first target."""
    total = sum(target.weight for target in targets)
    point = draw * total
    for target in targets:
        point -= target.weight
        if point < 0:
            return target.version
    return targets[0].version if total == 0 else targets[-1].version


def model_cards(table: RouteTable, created: Mapping[str, int]) -> list[dict[str, Any]]:
    """OpenAI's model objects; `created` (Unix seconds) is when the base or the version was published."""
    cards = [_card(table.base, table.base, created)] if table.base else []
    for alias, targets in sorted(table.aliases.items()):
        version = max(targets, key=lambda target: target.weight).version
        cards.append(_card(alias, version, created) | {"root": version, "parent": table.base})
    return cards


def _card(name: str, version: str, created: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": created.get(version, 0),
        "owned_by": "finetune-operator",
    }
