"""The cheapest change that makes a job fit, each tried before it is named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from finetune_trainer.planning.candidates import Choice, Given, Gpu, Request, fastest
from finetune_trainer.planning.memory import GIB, Method

_LENGTH_STEP = 64
_ADAPTER_RANK = 16
_GPUS_PER_NODE = (2, 4, 6, 8)
_NODES = (2, 4, 8, 16)


@dataclass(frozen=True)
class Suggestion:
    """A change in words, the job after it and the way that it would run."""

    text: str
    request: Request
    choice: Choice


@dataclass(frozen=True)
class _Change:
    request: Request
    text: Callable[[Choice], str]


def suggest(request: Request, other_gpus: tuple[Gpu, ...] = ()) -> tuple[Suggestion, ...]:
    """The cheapest change that makes the job fit; () if none is known.

    By rising cost: what only takes time (checkpointing, smaller micro-batches, ZeRO stages, offloading), what
    changes the result (shorter rows, a smaller method), what takes money (more or larger GPUs). Beside a
    change that offloads or changes the result stands the first that takes money: which is cheaper depends.
    """
    first = next(_working(_slower(request)), None)
    if first and first.choice.setup.offload == "none":
        return (first,)
    first = first or next(_working(_smaller(request)), None)
    paid = next(_working(_larger(request, other_gpus)), None)
    return tuple(found for found in (first, paid) if found)


def _working(changes: Iterator[_Change]) -> Iterator[Suggestion]:
    for change in changes:
        choice = fastest(change.request) if change.request.divisible else None
        if choice is not None:
            yield Suggestion(change.text(choice), change.request, choice)


def _smaller(request: Request) -> Iterator[_Change]:
    """Shorter rows, then methods that train less or compress the base."""
    shorter = _longest_that_fits(request)
    if shorter:
        yield _Change(
            replace(request, longest=shorter),
            lambda choice: f"shorten rows to {shorter:,} tokens (training.maxLength; {_need(choice)})",
        )
    methods: dict[Method, tuple[Method, ...]] = {"Full": ("LoRA", "QLoRA"), "LoRA": ("QLoRA",), "QLoRA": ()}
    for method in methods[request.given.method]:
        smaller = Given(method, request.given.rank or _ADAPTER_RANK)
        yield _Change(
            replace(request, given=smaller),
            lambda choice: f"use method {choice.setup.method} ({_need(choice)})",
        )


def _larger(request: Request, other_gpus: tuple[Gpu, ...]) -> Iterator[_Change]:
    """More GPUs of the same type, then other types."""
    sizes = [(count, 1) for count in _GPUS_PER_NODE] + [(_GPUS_PER_NODE[-1], count) for count in _NODES]
    for per_node, nodes in sizes:
        if per_node * nodes > request.gpus:
            yield _Change(replace(request, gpus_per_node=per_node, nodes=nodes), _gpus)
    for gpu in sorted(other_gpus, key=lambda gpu: gpu.memory_gib):
        text = f"use gpuType {gpu.name}"
        yield _Change(replace(request, gpu=gpu), partial(_labelled, text))


def _slower(request: Request) -> Iterator[_Change]:
    """Give up settings of the job that only buy speed, one at a time, then all of them."""
    given = request.given
    if given.checkpointing is False:
        yield _Change(
            replace(request, given=replace(given, checkpointing=True)),
            lambda choice: f"turn checkpointing on ({_need(choice)})",
        )
    if given.micro_batch_tokens is not None:
        yield _Change(
            replace(request, given=replace(given, micro_batch_tokens=None)),
            lambda choice: f"use micro-batches of {choice.micro_batch_tokens:,} tokens ({_need(choice)})",
        )
    if given.zero_stage is not None:
        yield _Change(
            replace(request, given=replace(given, zero_stage=None, offload=given.offload or "none")),
            lambda choice: f"use ZeRO-{choice.setup.zero_stage} ({_need(choice)})",
        )
    yield _Change(
        replace(
            request,
            given=Given(given.method, given.rank),
        ),
        lambda choice: f"use {_way(choice)} ({_need(choice)})",
    )


def _longest_that_fits(request: Request) -> int:
    """The longest row that would fit, a multiple of 64; 0 if none does. Memory only grows with length."""
    low, high = 0, (request.longest - 1) // _LENGTH_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fastest(replace(request, longest=middle * _LENGTH_STEP)):
            low = middle
        else:
            high = middle - 1
    return low * _LENGTH_STEP


def _gpus(choice: Choice) -> str:
    nodes = f" on {choice.setup.nodes} nodes" if choice.setup.nodes > 1 else ""
    return f"use {choice.setup.gpus} GPUs{nodes} ({_need(choice)} each)"


def _labelled(text: str, choice: Choice) -> str:
    return f"{text} ({_need(choice)})"


def _way(choice: Choice) -> str:
    setup = choice.setup
    offload = {
        "none": "",
        "optimizer": " with the optimizer offloaded (about half the speed)",
        "all": " with weights and optimizer offloaded (about a quarter of the speed)",
    }[setup.offload]
    stage = f"ZeRO-{setup.zero_stage}{offload}, " if setup.zero_stage else ""
    tokens = f"micro-batches of {choice.micro_batch_tokens:,} tokens"
    return f"{stage}checkpointing {'on' if setup.checkpointing else 'off'} and {tokens}"


def _need(choice: Choice) -> str:
    host = f" and {choice.memory.host / GIB:.0f} GiB of each host" if choice.memory.host else ""
    return f"{choice.memory.total / GIB:.1f} GiB{host}"
