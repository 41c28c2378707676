"""Worker processes that examine chunks of a data set, with results in the order of the chunks."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from finetune_trainer.container import usable_cores, usable_memory
from finetune_trainer.errors import UserError
from finetune_trainer.lean import hide_torch, use_one_thread

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
State = TypeVar("State")
# Starting a process costs seconds (imports, the tokenizer), as much as this many bytes take.
WORTH_BYTES = 8 << 20
_MOST = 16  # more processes than this wait for the one that reads
_BYTES = 512 << 20  # of memory for each, its tokenizer and chunks included


def each(
    work: Callable[[State, Chunk], Result], make: Callable[[], State], chunks: Iterable[Chunk], size: int
) -> Iterator[Result]:
    """`work(state, chunk)` for all chunks in their order; every process makes its own state once.

    Data of less than WORTH_BYTES (`size`) is examined by this process. Few chunks are in memory at a time.
    `work` and `make` are sent to the processes, so both are functions of a module or partials of them.
    """
    processes = worth(size)
    if processes == 1:
        state = make()
        return (work(state, chunk) for chunk in chunks)
    return _parallel(work, make, chunks, processes)


def worth(size: int) -> int:
    """The processes for so many bytes of data: as many as the container's cores and memory hold."""
    most = min(usable_cores(), usable_memory() // _BYTES, _MOST)
    return max(1, most) if size >= WORTH_BYTES else 1


def _parallel(
    work: Callable[[State, Chunk], Result], make: Callable[[], State], chunks: Iterable[Chunk], processes: int
) -> Iterator[Result]:
    # Not forked: this process has threads (progress), and a fork of a thread's lock never opens.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _start, (work, make)) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for chunk in chunks:
                running.append(pool.submit(_run, chunk))
                if len(running) > 2 * processes:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            text = "A process that examined the data was killed, most likely for memory"
            raise UserError(f"{text}; give it more memory or less data.") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_worker: list[Any] = []  # of a worker process: its work and its state


def _start(work: Callable[[State, Chunk], Result], make: Callable[[], State]) -> None:
    hide_torch()
    use_one_thread()
    _worker[:] = [work, make()]


def _run(chunk: Any) -> Any:
    work, state = _worker
    return work(state, chunk)
