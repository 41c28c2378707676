"""Training speed of the train stage beside TRL's SFTTrainer, on this machine's CPU.

    python -m benchmarks.training [--sets reviews chat] [--arms ours trl-defaults] [--rows 32] [--repeats 1]
        [--no-write]

Every arm tunes SmolLM2-135M-Instruct with the same LoRA (r16, all linear layers) on the same tokens of a set
for one epoch, started anew, in turns, on all cores: ours by as many processes as a pod of this machine's size
chooses, SFTTrainer by one with a thread per core, as it runs unless torchrun starts more. Real tokens (no
padding) per second of `train()`, without start-up; the loss on held-out rows afterwards shows that all arms
learned the same. Sets:

- reviews: rows of examples/drug-reviews
- chat: conversations about such reviews, all answers trained; their lengths are log-normal (sigma 0.8, at
  most 1,024 tokens), as real conversations' are

Arms:

- ours: what the train stage runs
- ours-padded: without packing and with torch's attention, as before both
- ours-compiled: with the layers compiled from the first step on, as runs over 20 minutes are after a few;
  its speed is that after the first two steps
- trl-defaults: SFTTrainer with nothing set but what the task fixes (length, batch, rate, seed)
- trl-fp32: the same without bf16 and without recomputing activations, the fastest on processors without bf16
- trl-bf16: a bf16 base, activations kept
- trl-grouped: the same, two rows of similar length at a time
- trl-eager: the same as grouped, with attention as products of matrices
- trl-processes: the same as eager, started by torchrun with as many processes as ours
- trl-packed: a bf16 base, activations kept, packing "bfd" into 1,024 tokens (padding-free)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.record import spread, write
from finetune_trainer.base.shape import read_shape
from finetune_trainer.container import usable_cores
from finetune_trainer.launch.processes import choose, read_pod
from finetune_trainer.launch.torchrun import worker_environment
from finetune_trainer.planning.memory import Setup

Row = dict[str, list[int]]

DATA = Path("examples/drug-reviews/data")
SETS = ("reviews", "chat")
ROWS = 32  # to train on
HELD_OUT = 16
LENGTH, BATCH, RATE, SEED, RANK, ALPHA = 1024, 8, 1e-3, 17, 16, 32
WARM_UP_STEPS = 2
OURS = ("ours", "ours-padded", "ours-compiled")


@dataclass(frozen=True)
class Trl:
    """How an arm of SFTTrainer differs from its defaults; `shared` by as many processes as ours."""

    bf16_base: bool = False
    attention: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    shared: bool = False


@dataclass(frozen=True)
class Training:
    """The base, how many rows of a set are trained, and how many processes share them in our arms."""

    model: Path
    rows: int
    processes: int


@dataclass(frozen=True)
class Span:
    """What was trained, how long it took, and the time that processors worked on it."""

    tokens: int
    seconds: float
    processor_seconds: float


_KEPT: dict[str, Any] = {"gradient_checkpointing": False}
# Two rows of similar length at a time: next to no padding, and products large enough.
_GROUPED = {
    **_KEPT,
    "train_sampling_strategy": "group_by_length",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
}
TRL = {
    "trl-defaults": Trl(),
    "trl-fp32": Trl(settings={**_KEPT, "bf16": False}),
    "trl-bf16": Trl(True, settings=_KEPT),
    "trl-grouped": Trl(True, settings=_GROUPED),
    "trl-eager": Trl(True, "eager", _GROUPED),
    "trl-processes": Trl(True, "eager", _GROUPED, shared=True),
    # The same tokens per step: 8 rows are about two packs.
    "trl-packed": Trl(
        True,
        settings={
            **_KEPT,
            "packing": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
        },
    ),
}
ARMS = (*OURS, *TRL)
# What is recorded: the defaults on both sets, TRL's other settings where they matter.
RECORDED = {
    "reviews": ("ours", "ours-compiled", "trl-defaults", "trl-processes"),
    "chat": ("ours", "ours-compiled", "trl-defaults", "trl-eager", "trl-processes", "trl-packed"),
}


def main() -> None:
    """Run the arms of all sets in turns and record speeds, ratios and held-out losses."""
    options = _parser().parse_args()
    if options.arm:
        run_arm(options.arm, options.set, options.rows, options.model, options.folder)
        return
    from dev import assets
    from dev.cluster.home import home

    model = assets.base_model(home())
    training, sets = Training(model, options.rows, pod_processes(model)), {}
    print(f"ours trains in {training.processes} processes", flush=True)
    for name in options.sets:
        arms = options.arms or RECORDED[name]
        sets[name] = summary(_in_turns(name, arms, training, options.repeats))
        print(json.dumps(sets[name], indent=2), flush=True)
    if not options.no_write:
        packages = ("torch", "transformers", "trl", "peft")
        told = {"repeats": options.repeats, "rows": training.rows, "processes": training.processes}
        measured = {**told, "sets": sets}
        print("written:", write("training", measured, packages))


def pod_processes(model: Path) -> int:
    """How many processes a pod with this machine's cores and memory trains in."""
    setup = Setup("LoRA", LENGTH, RANK, gradient_checkpointing="Disabled")
    return choose(read_pod(), BATCH, read_shape(model), setup)


def summary(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Speeds per arm, and ours over each arm of TRL in the same turn."""
    arms = {
        arm: {key: spread([result[key] for result in results]) for key in results[0]}
        for arm, results in runs.items()
    }
    ratios = {
        f"{mine} over {other}": {
            key: spread([ours[key] / trl[key] for ours, trl in zip(runs[mine], runs[other], strict=True)])
            for key in ("tokensPerSecond", "tokensPerProcessorSecond")
        }
        for mine in runs
        for other in runs
        if mine in OURS and other in TRL
    }
    return {"arms": arms, "ratios": ratios}


def run_arm(arm: str, name: str, count: int, model: Path, folder: Path) -> None:
    """Train once in `folder`, which the arm's processes share; the first one writes result.json.

    Speed in real tokens per second, and the loss on held-out rows (mean per trained token).
    """
    rows = encoded(model, name, "train.jsonl", count)
    span = (_ours if arm in OURS else _trl)(arm, model, rows, folder)
    if os.environ["RANK"] != "0":
        return
    loss = held_out_loss(model, folder / "adapter", encoded(model, name, "holdout.jsonl", HELD_OUT))
    result = {
        "tokensPerSecond": round(span.tokens / span.seconds, 1),
        # Of all cores together; on a busy machine truer than the speed.
        "tokensPerProcessorSecond": round(span.tokens / span.processor_seconds, 1),
        "heldOutLoss": round(loss, 4),
    }
    (folder / "result.json").write_text(json.dumps(result))


def encoded(model: Path, name: str, file: str, count: int) -> list[Row]:
    """The first rows of a set as prepare tokenises them."""
    from finetune_trainer.chat.tokenizer import load_tokenizer
    from finetune_trainer.data.formats import canonical
    from finetune_trainer.data.tokenise import Encoded, encode_rows

    lines = [json.loads(line) for line in (DATA / file).read_text().splitlines()]
    chosen = lines[:count] if name == "reviews" else list(conversations(lines, count))
    rows = [canonical(number, line) for number, line in enumerate(chosen, 1)]
    found = encode_rows(load_tokenizer(model), rows)
    cut = [row.cut(LENGTH) for row in found if isinstance(row, Encoded)]
    return [{"input_ids": row.ids.tolist(), "labels": row.labels.tolist()} for row in cut]


def conversations(lines: list[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """`count` rows of one to many exchanges about reviews, as many as fill a log-normal number of words."""
    chance, left = random.Random(SEED), iter(lines * 4)
    for _ in range(count):
        words, messages = chance.lognormvariate(math.log(110), 0.8), list[dict[str, str]]()
        while (room := words - _words(messages)) > 0:
            messages += _exchange(next(left)["messages"], reads=chance.random() < 0.6, words=int(room))
        yield {"messages": messages}


def _exchange(messages: list[dict[str, str]], reads: bool, words: int) -> list[dict[str, str]]:
    """A review to read and what is in it, or the other way round; of the review at most so many words."""
    review = " ".join(messages[0]["content"].partition("Review: ")[2].split()[: max(12, words)])
    found = messages[-1]["content"]
    question, answer = (f"What is in it? {review}", found) if reads else (f"Write about {found}", review)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _words(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"].split()) for message in messages)


def held_out_loss(model: Path, adapter: Path, rows: list[dict[str, list[int]]]) -> float:
    """Mean loss per trained token of base plus adapter, row by row, so that no batching differs."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(adapter)).eval()
    total, trained = 0.0, 0
    with torch.no_grad():
        for row in rows:
            count = sum(label != -100 for label in row["labels"])
            ids, labels = (torch.tensor([row[key]]) for key in ("input_ids", "labels"))
            total += float(tuned(input_ids=ids, labels=labels).loss) * count
            trained += count
    return total / trained


def compiled_from_the_start() -> AbstractContextManager[Any]:
    """Trains with compiled layers, however short the run is."""
    from finetune_trainer.training import core
    from finetune_trainer.training.compiling import CompileCallback, compile_layers

    class Early(CompileCallback):
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            compile_layers(model, self._cache)

        def on_log(self, *_: Any, **__: Any) -> None:
            pass

    return patch.object(core, "CompileCallback", Early)


def _ours(arm: str, model: Path, rows: list[Row], folder: Path) -> Span:
    from finetune_trainer.trained_rows import as_batch, writing_rows
    from finetune_trainer.training import core
    from finetune_trainer.training.batching import tokens_of_steps
    from finetune_trainer.training.callbacks import StepReport
    from finetune_trainer.training.plan import Execution, Folders, LoraPlan, TrainPlan
    from finetune_trainer.training.signals import StopRequest

    dataset = folder / f"train-{os.environ['RANK']}.arrow"
    with writing_rows(dataset) as write:
        write(as_batch(rows))
    folders = Folders(model, dataset, folder / "checkpoints", folder / "adapter")
    plan = TrainPlan(1, RATE, BATCH, SEED, LoraPlan(RANK, ALPHA), Execution(1024))
    marks: dict[int, tuple[float, float]] = {}

    def mark(report: StepReport) -> None:
        if report.step is not None:
            marks.setdefault(report.step, _now())

    with ExitStack() as changed:
        if arm == "ours-padded":
            changed.enter_context(patch.object(core, "can_pack", lambda *_: False))
        if arm == "ours-compiled":
            changed.enter_context(compiled_from_the_start())
        core.train(plan, folders, "benchmark", StopRequest(), mark)
    first = WARM_UP_STEPS if arm == "ours-compiled" else 0
    tokens = tokens_of_steps([len(row["input_ids"]) for row in rows], BATCH, SEED, 1)
    return _of_all_processes(_span(sum(tokens[first:]), marks[first], marks[len(tokens)]))


def _of_all_processes(span: Span) -> Span:
    """With the time of all processors; the processes begin and end their steps together."""
    import torch

    seconds = torch.tensor(span.processor_seconds)
    torch.distributed.all_reduce(seconds)
    return replace(span, processor_seconds=float(seconds))


def _trl(arm: str, model: Path, rows: list[Row], folder: Path) -> Span:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    setup = TRL[arm]
    fixed = {
        "output_dir": str(folder / "out"), "max_length": LENGTH, "per_device_train_batch_size": BATCH,
        "num_train_epochs": 1, "learning_rate": RATE, "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
        "seed": SEED, "use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "logging_steps": 1,
    }  # fmt: skip
    arguments = {**fixed, **setup.settings}
    if setup.shared:
        arguments["gradient_accumulation_steps"] //= int(os.environ["WORLD_SIZE"])
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            str(model),
            dtype=torch.bfloat16 if setup.bf16_base else torch.float32,
            attn_implementation=setup.attention,
        ),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(str(model)),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    start = _now()
    trainer.train()
    span = _span(sum(len(row["input_ids"]) for row in rows), start, _now())
    trainer.save_model(str(folder / "adapter"))
    return _of_all_processes(span) if setup.shared else span


def _now() -> tuple[float, float]:
    return time.monotonic(), time.process_time()


def _span(tokens: int, start: tuple[float, float], end: tuple[float, float]) -> Span:
    return Span(tokens, end[0] - start[0], end[1] - start[1])


def _in_turns(
    name: str, arms: tuple[str, ...], training: Training, repeats: int
) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as compiled:
        for _ in range(repeats):
            for arm in arms:
                runs[arm].append(_started(arm, name, training, compiled))
                print(name, arm, runs[arm][-1], flush=True)
    return runs


def _started(arm: str, name: str, training: Training, compiled: str) -> dict[str, float]:
    processes = training.processes if arm in OURS or TRL[arm].shared else 1
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = worker_environment(
        {**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled}, processes, usable_cores()
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--arm", arm, "--set", name, "--rows", str(training.rows)]
        arguments += ["--model", str(training.model), "--folder", folder]
        command = [sys.executable, *torchrun, "-m", "benchmarks.training", *arguments]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment)
        found: dict[str, float] = json.loads((Path(folder) / "result.json").read_text())
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, help="instead of those that are recorded")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to train on")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-write", action="store_true", help="leave the recorded results as they are")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--set", choices=SETS, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
