"""Whether an adapter's matrices fit the modules of the base.

The engine loads what matches its modules and drops the rest without a word, so an adapter of which some
names match nothing would be served with a part of its weights.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from finetune_serving.adapter.base import EXPERTS, BaseModules, Place, Shape, place_of
from finetune_serving.adapter.config import Scale
from finetune_serving.adapter.matrices import Pair, counted
from finetune_serving.agent.refusal import RefusedError

# Modules of each stack of layers with the shape of their weight.
Stacks = Mapping[str, Mapping[tuple[int, str], Shape | None]]


def check_modules(pairs: Mapping[str, Pair], base: BaseModules, *, transposed: bool) -> None:
    """RefusedError when a module is not in the base or has another size there.

    `transposed` says that layers may store their weight as (inputs, outputs), PEFT's fan_in_fan_out.
    """
    if not base.shapes:
        return
    places = match(pairs, base)
    if unmatched := [module for module, place in places.items() if place is None]:
        names = counted(unmatched, len(pairs), "adapted modules")
        text = f"Not in the base model, so the engine would drop them: {names}"
        raise RefusedError("BaseMismatch", f"{text}; leave them out, or train on this server's base.")
    if wrong := list(_wrong_sizes(pairs, places, base, transposed=transposed)):
        text = f"Of another size in the base model: {counted(wrong, len(pairs), 'adapted modules')}"
        raise RefusedError("BaseMismatch", f"{text}; train the adapter on this server's base.")
    if absorbed := [module for module in pairs if module.rpartition(".")[2] in base.absorbed]:
        names = counted(absorbed, len(pairs), "adapted modules")
        text = f"Joined with others by the engine, which would drop their matrices: {names}"
        raise RefusedError("UnsupportedAdapter", f"{text}; train the other modules only.")


def check_ranks(pairs: Mapping[str, Pair], scales: Mapping[str, Scale]) -> None:
    """RefusedError when a matrix has another rank than adapter_config.json gives its module."""
    if wrong := list(_wrong_ranks(pairs, scales)):
        text = f"Of another rank than adapter_config.json states: {counted(wrong, len(pairs), 'modules')}"
        raise RefusedError("InvalidArtifact", f"{text}; save the adapter again.")


def match(pairs: Mapping[str, Pair], base: BaseModules) -> dict[str, Place | None]:
    """For each adapted module the base's module that it belongs to; None when the base has none.

    An adapter uses the names of transformers, which loads some checkpoints under others: then a whole stack
    of layers is called otherwise, never a part of one. Whether the engine knows it, its effect must show.
    """
    wanted = {place_of(module): pair.shape for module, pair in pairs.items()}
    names = _stack_names(_by_stack(wanted), _by_stack(base.shapes), composite=base.composite)
    return {module: _counterpart(place_of(module), pair.shape, names, base) for module, pair in pairs.items()}


def _counterpart(place: Place, shape: Shape, names: Mapping[str, str], base: BaseModules) -> Place | None:
    moved = replace(place, stack=names.get(place.stack, place.stack))
    if moved in base.shapes:
        return moved
    if place.stack:
        return None
    outside = (other for other in base.shapes if not other.stack)
    similar = [other for other in outside if _may_be(place.inner, other.inner, composite=base.composite)]
    return max(similar, key=lambda other: base.shapes[other] == shape, default=None)


def _by_stack(shapes: Mapping[Place, Shape | None]) -> Stacks:
    found: defaultdict[str, dict[tuple[int, str], Shape | None]] = defaultdict(dict)
    for place, shape in shapes.items():
        found[place.stack][place.layer, place.inner] = shape
    return found


def _stack_names(wanted: Stacks, have: Stacks, *, composite: bool) -> dict[str, str]:
    """The base's name of each stack of the adapter: the same, else that of the most similar one left over."""
    names = {stack: stack for stack in wanted if stack in have}
    for stack in sorted(wanted.keys() - names.keys(), key=lambda name: (-len(wanted[name]), name)):
        left = have.keys() - names.values()
        similar = [other for other in sorted(left) if _may_be(stack, other, composite=composite)]
        if similar:
            names[stack] = max(similar, key=lambda other: _likeness(wanted[stack], have[other]))
    return names


def _may_be(name: str, other: str, *, composite: bool) -> bool:
    """Whether transformers may give one module the first name and a checkpoint the second.

    Of a single model, what stands before the last part may differ, or the first part be left out in the
    checkpoint; of several in one, the name may also have more or fewer parts.
    """
    same_leaf = name.rpartition(".")[2] == other.rpartition(".")[2]
    return same_leaf and (composite or name.count(".") == other.count(".") or name.partition(".")[2] == other)


def _likeness(
    wanted: Mapping[tuple[int, str], Shape | None], have: Mapping[tuple[int, str], Shape | None]
) -> tuple[int, int]:
    """How many modules the two stacks share in name and size, and how many in name."""
    common = wanted.keys() & have.keys()
    return sum(have[key] in (None, wanted[key]) for key in common), len(common)


def _wrong_sizes(
    pairs: Mapping[str, Pair], places: Mapping[str, Place | None], base: BaseModules, *, transposed: bool
) -> Iterator[str]:
    for module, pair in pairs.items():
        place = places[module]
        expected = base.shapes[place] if place else None
        if expected is not None and pair.shape not in (expected, expected[::-1] if transposed else expected):
            yield f"{module}: {_size(pair.shape)}, in the base {_size(expected)}"


def _wrong_ranks(pairs: Mapping[str, Pair], scales: Mapping[str, Scale]) -> Iterator[str]:
    for module, pair in pairs.items():
        rank, found = scales[module].rank, {pair.a.shape[0], pair.b.shape[1]}
        stacked = place_of(module).inner == EXPERTS and all(each % rank == 0 for each in found)
        if found != {rank} and not stacked:
            yield f"{module}: {' and '.join(map(str, sorted(found)))} instead of {rank}"


def _size(shape: Shape) -> str:
    return " x ".join(map(str, shape))
