"""Speed and peak memory of the train stage on GPUs, with models of real shape and random weights.

    python -m benchmarks.gpu_training [--only CASE ...] [--out FOLDER] [--dry-run]

Each case runs `finetune_trainer.training.core.train`, as the pods do, in a process of its own per GPU and in
less than 6 minutes: real tokens (no padding) per second after the first steps, and the most memory that torch
held beside what the plan said. Rows are 4,096 tokens long (dense) or 100 to 2,000 (log-normal). Speed does
not depend on the values of weights. "-trl" cases run TRL's SFTTrainer with the same layout. Without a GPU it
says so and ends with 0; `--dry-run` proves the script itself with a tiny model on the CPU.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

from benchmarks.record import machine
from benchmarks.training import compiled_from_the_start

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-3.2-1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-3.1-8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
                     "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-2-13b": {"vocab_size": 32000, "hidden_size": 5120, "intermediate_size": 13824,
                    "num_hidden_layers": 40, "num_attention_heads": 40, "num_key_value_heads": 40},
}  # fmt: skip
TIED = ("llama-3.2-1b", "tiny")
SHORTEST, LONGEST, MEDIAN = 100, 2000, 500
WARM_UP_STEPS, STEPS, SEED, RANK, ALPHA = 3, 8, 17, 16, 32
PACKAGES = ("torch", "transformers", "trl", "peft", "deepspeed", "bitsandbytes")


@dataclass(frozen=True)
class Case:
    """One run: a shape, a method and how the work is laid out.

    `row_tokens` None are rows of many lengths; `layout` None is what the stage chooses; `limit_gib` is all
    that torch may take of the GPU.
    """

    name: str
    shape: str
    method: Literal["LoRA", "QLoRA", "Full"]
    micro_batch_tokens: int
    gradient_checkpointing: Literal["Disabled", "Selective", "Enabled"] = "Disabled"
    zero_stage: int = 0
    offload: Literal["None", "Optimizer", "All"] = "None"
    rows_per_step: int = 64
    row_tokens: int | None = None
    layout: Literal["padded"] | None = None
    compiled: bool = False
    overlapped: bool = False
    limit_gib: float | None = None
    gpus: int = 1
    trainer: Literal["ours", "trl"] = "ours"


def _dense(name: str, tokens: int = 8192, **others: Any) -> Case:
    return Case(name, "llama-3.1-8b", "LoRA", tokens, rows_per_step=8, row_tokens=4096, **others)


CASES = (
    Case("1b-lora-packed", "llama-3.2-1b", "LoRA", 16384),
    Case("1b-lora-packed-compiled", "llama-3.2-1b", "LoRA", 16384, compiled=True),
    Case("1b-lora-padded", "llama-3.2-1b", "LoRA", 16384, layout="padded"),
    Case("1b-lora-packed-recomputed", "llama-3.2-1b", "LoRA", 16384, "Enabled"),
    Case("1b-lora-packed-selective", "llama-3.2-1b", "LoRA", 16384, "Selective"),
    Case("1b-full-zero2", "llama-3.2-1b", "Full", 8192, zero_stage=2),
    Case("1b-full-zero2-compiled", "llama-3.2-1b", "Full", 8192, zero_stage=2, compiled=True),
    Case("1b-full-zero3", "llama-3.2-1b", "Full", 8192, zero_stage=3),
    Case("1b-full-zero3-offload", "llama-3.2-1b", "Full", 8192, zero_stage=3, offload="Optimizer"),
    Case("1b-full-zero2-two-gpus", "llama-3.2-1b", "Full", 8192, zero_stage=2, gpus=2),
    Case("1b-full-zero2-two-gpus-overlapped", "llama-3.2-1b", "Full", 8192, zero_stage=2, gpus=2,
         overlapped=True),
    _dense("8b-lora-dense"),
    _dense("8b-lora-dense-compiled", compiled=True),
    _dense("8b-lora-dense-selective", gradient_checkpointing="Selective"),
    _dense("8b-lora-dense-recomputed", gradient_checkpointing="Enabled"),
    _dense("8b-lora-dense-trl", trainer="trl"),
    _dense("8b-lora-dense-sharded", zero_stage=3),
    Case("8b-lora-packed", "llama-3.1-8b", "LoRA", 8192, rows_per_step=32),
    Case("8b-lora-packed-compiled", "llama-3.1-8b", "LoRA", 8192, rows_per_step=32, compiled=True),
    Case("13b-qlora-24gib", "llama-2-13b", "QLoRA", 4096, "Enabled", rows_per_step=2, row_tokens=4096,
         limit_gib=24.0),
)  # fmt: skip
DRY = (
    Case("tiny-lora", "tiny", "LoRA", 4096, rows_per_step=4),
    Case("tiny-lora-compiled", "tiny", "LoRA", 4096, rows_per_step=4, compiled=True),
    Case("tiny-lora-selective", "tiny", "LoRA", 4096, "Selective", rows_per_step=4),
    Case("tiny-lora-sharded", "tiny", "LoRA", 4096, rows_per_step=4, row_tokens=256, zero_stage=3),
    Case("tiny-lora-trl", "tiny", "LoRA", 4096, rows_per_step=4, row_tokens=256, trainer="trl"),
    Case("tiny-qlora", "tiny", "QLoRA", 4096, "Enabled", rows_per_step=4),
    Case("tiny-full", "tiny", "Full", 4096, zero_stage=2, rows_per_step=4),
    Case(
        "tiny-full-overlapped", "tiny", "Full", 4096, zero_stage=2, rows_per_step=4, gpus=2, overlapped=True
    ),
)


def main() -> int:
    """Run the cases in turns; write gpu_training.json after each."""
    options = _parser().parse_args()
    if options.case:
        return _run_one(options)
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_training: skipped, this machine has no GPU (--dry-run proves the script)")
        return 0
    there = torch.cuda.device_count() if torch.cuda.is_available() else 2
    known = DRY if options.dry_run else CASES
    cases = [case for case in known if case.gpus <= there and (not options.only or case.name in options.only)]
    results: list[dict[str, Any]] = []
    for result in _in_turns(cases):
        results.append(result)
        print(json.dumps(result), flush=True)
        _write(options.out, results)
    return 0 if all("error" not in result for result in results) else 1


def measure(case: Case, model: Path) -> dict[str, Any]:
    """Train a few steps in this process."""
    rows = _rows(case, SHAPES[case.shape]["vocab_size"])
    marks: dict[int, float] = {}
    _limit(case.limit_gib)

    def mark(step: int) -> None:
        marks.setdefault(step, time.monotonic())

    with tempfile.TemporaryDirectory() as scratch:
        run = _train_ours if case.trainer == "ours" else _train_with_trl
        losses = run(case, model, rows, Path(scratch), mark)
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        **asdict(case),
        **_speed(marks, lengths, case.rows_per_step),
        "losses": [round(loss, 4) for loss in losses],
        **_memory(case, model),
    }


def _train_ours(
    case: Case, model: Path, rows: list[dict[str, list[int]]], folder: Path, mark: Callable[[int], None]
) -> list[float]:
    from finetune_trainer.trained_rows import as_batch, writing_rows
    from finetune_trainer.training import core
    from finetune_trainer.training.callbacks import StepReport
    from finetune_trainer.training.plan import Execution, Folders, LoraPlan, TrainPlan
    from finetune_trainer.training.signals import StopRequest

    execution = Execution(case.micro_batch_tokens, case.gradient_checkpointing, case.zero_stage, case.offload)
    lora = LoraPlan(RANK, ALPHA, quantized_base=case.method == "QLoRA")
    plan = TrainPlan(1, 1e-4, case.rows_per_step, SEED, None if case.method == "Full" else lora, execution)
    data = folder / "train.arrow"
    with writing_rows(data) as write:
        write(as_batch(rows))
    folders = Folders(model, data, folder / "checkpoints", folder / "output")

    def report(done: StepReport) -> None:
        if done.step is not None:
            mark(done.step)

    with ExitStack() as changed:
        for change in _changes(case):
            changed.enter_context(change)
        outcome = core.train(plan, folders, "benchmark", StopRequest(), report)
    return list(outcome.losses)


def _changes(case: Case) -> Iterator[Any]:
    """What a case sets that no job can, and what an older torch than the image's lacks."""
    from torch.nn.attention import varlen

    from finetune_trainer.training import core, sharding

    if "enable_gqa" not in inspect.signature(varlen.varlen_attn).parameters:
        yield patch.object(varlen, "varlen_attn", _without_gqa(varlen.varlen_attn))
    if case.layout == "padded":
        yield patch.object(core, "can_pack", lambda *_: False)
    if case.compiled:
        yield compiled_from_the_start()
    if case.overlapped:
        original = sharding._zero
        yield patch.object(sharding, "_zero", lambda *given: {**original(*given), "overlap_comm": True})


def _without_gqa(attention: Callable[..., Any]) -> Callable[..., Any]:
    """For torch 2.11, whose kernel takes fewer key heads without being told (with the right gradients)."""

    def attend(*given: Any, enable_gqa: bool, **options: Any) -> Any:  # noqa: ARG001 (its value follows from the heads)
        return attention(*given, **options)

    return attend


def _train_with_trl(
    case: Case, model: Path, rows: list[dict[str, list[int]]], folder: Path, mark: Callable[[int], None]
) -> list[float]:
    """SFTTrainer on full rows: no padding to avoid, activations kept, bf16."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Marks(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            mark(state.global_step)

    size = max(1, case.micro_batch_tokens // cast("int", case.row_tokens))
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.bfloat16),
        args=SFTConfig(
            output_dir=str(folder), max_length=case.row_tokens, per_device_train_batch_size=size,
            gradient_accumulation_steps=max(1, case.rows_per_step // size), max_steps=STEPS,
            gradient_checkpointing=case.gradient_checkpointing == "Enabled", learning_rate=1e-4,
            save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1,
            use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(str(model)),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Marks()],
    )  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _speed(marks: dict[int, float], lengths: list[int], batch: int) -> dict[str, float]:
    from finetune_trainer.training.batching import tokens_of_steps

    tokens = tokens_of_steps(lengths, batch, SEED, 1)[WARM_UP_STEPS:STEPS]
    seconds = marks[STEPS] - marks[WARM_UP_STEPS]
    return {
        "tokensPerSecond": round(sum(tokens) / seconds, 1),
        "meanRowTokens": round(sum(lengths) / len(lengths), 1),
    }


def _limit(gib: float | None) -> None:
    """Let torch take no more of the GPU than a smaller card has."""
    import torch

    if gib is not None and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(
            gib * 2**30 / torch.cuda.get_device_properties(0).total_memory
        )


def _memory(case: Case, model: Path) -> dict[str, Any]:
    """Peaks of this process's GPU, and of the plan for it: both of tensors and of all."""
    import torch

    from finetune_trainer.base.shape import read_shape
    from finetune_trainer.planning.memory import GIB, Setup, predict

    longest = case.row_tokens or LONGEST
    setup = Setup(
        method=case.method,
        tokens=max(case.micro_batch_tokens, longest),
        rank=None if case.method == "Full" else RANK,
        gpus_per_node=case.gpus,
        zero_stage=case.zero_stage,
        offload=case.offload,
        gradient_checkpointing=case.gradient_checkpointing,
    )
    planned = predict(read_shape(model), setup)
    plan = {
        "plannedGiB": round(planned.total / GIB, 2),
        "plannedTensorsGiB": round((planned.total - planned.context) / GIB, 2),
    }
    if not torch.cuda.is_available():
        return {"device": "cpu", **plan}
    free, total = torch.cuda.mem_get_info()
    allocated = torch.cuda.max_memory_allocated() / GIB
    return {
        "device": torch.cuda.get_device_name(),
        "totalGiB": round(total / GIB, 2),
        "allocatedPeakGiB": round(allocated, 2),
        "reservedPeakGiB": round(torch.cuda.max_memory_reserved() / GIB, 2),
        "contextGiB": round((total - free - torch.cuda.memory_reserved()) / GIB, 2),
        **plan,
        "allocatedOverPlanned": round(allocated / plan["plannedTensorsGiB"], 3),
    }


def _rows(case: Case, vocabulary: int) -> list[dict[str, list[int]]]:
    """Random tokens; the last third of each row is trained."""
    chance = random.Random(SEED)
    rows = []
    for _ in range(case.rows_per_step * STEPS):
        varied = min(LONGEST, max(SHORTEST, round(chance.lognormvariate(math.log(MEDIAN), 0.7))))
        length = case.row_tokens or varied
        ids = [chance.randrange(vocabulary) for _ in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * (2 * length // 3) + ids[2 * length // 3 :]})
    return rows


def _make_model(folder: Path, shape: str) -> Path:
    """A folder with random bf16 weights and a tokenizer that is only there to be loaded."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(**SHAPES[shape], tie_word_embeddings=shape in TIED, max_position_embeddings=8192)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(
        folder
    )
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    return folder


def _in_turns(cases: list[Case]) -> Iterator[dict[str, Any]]:
    """All cases; one model at a time lies on the disk."""
    for shape, of_shape in groupby(cases, lambda case: case.shape):
        with tempfile.TemporaryDirectory() as scratch:
            model = _make_model(Path(scratch) / shape, shape)
            for case in of_shape:
                yield _in_processes(case, model)


def _in_processes(case: Case, model: Path) -> dict[str, Any]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.gpus)]
    arguments = ["--case", json.dumps(asdict(case)), "--model", str(model)]
    command = [sys.executable, *torchrun, "-m", "benchmarks.gpu_training", *arguments]
    environment = {**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {**asdict(case), "error": done.stderr[-3000:]}
    line = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return {**json.loads(line), "wallSeconds": round(time.monotonic() - start, 1)}


def _run_one(options: argparse.Namespace) -> int:
    result = measure(Case(**json.loads(options.case)), Path(options.model))
    if os.environ.get("RANK", "0") == "0":
        print("\n" + json.dumps(result))
    return 0


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _write(folder: Path, results: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": "gpu_training", "machine": machine(), "versions": _versions(), "cases": results,
    }  # fmt: skip
    (folder / "gpu_training.json").write_text(json.dumps(document, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of cases")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
