"""Speed and peak memory of the train stage on one GPU, with models of real shape and random weights.

    python -m benchmarks.gpu_training [--only CASE ...] [--out FOLDER] [--dry-run]

Each case runs `finetune_trainer.training.core.train`, as the pods do, in a process of its own: rows of 100 to
2,000 tokens (log-normal), real tokens (no padding) per second after the first steps, the most memory that
torch held and that the device lent. Speed does not depend on the values of weights. Without a GPU it says so
and ends with 0; `--dry-run` proves the script itself with a tiny model on the CPU.
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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama-3.2-1b": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    "llama-3.1-8b": {"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
                     "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
TIED = ("llama-3.2-1b", "tiny")
SHORTEST, LONGEST, MEDIAN = 100, 2000, 500
WARM_UP_STEPS, STEPS = 3, 8


@dataclass(frozen=True)
class Case:
    """One run: a shape, a method and how the work is laid out; `layout` None is what the stage chooses."""

    name: str
    shape: str
    method: str
    micro_batch_tokens: int
    checkpointing: bool = False
    zero_stage: int = 0
    offload: str = "None"
    rows_per_step: int = 64
    layout: str | None = None


CASES = (
    Case("1b-lora-packed", "llama-3.2-1b", "LoRA", 16384),
    Case("1b-lora-padded", "llama-3.2-1b", "LoRA", 16384, layout="padded"),
    Case("1b-lora-packed-checkpointing", "llama-3.2-1b", "LoRA", 16384, checkpointing=True),
    Case("1b-full-zero2", "llama-3.2-1b", "Full", 8192, zero_stage=2),
    Case("1b-full-zero3", "llama-3.2-1b", "Full", 8192, zero_stage=3),
    Case("1b-full-zero3-offload", "llama-3.2-1b", "Full", 8192, zero_stage=3, offload="Optimizer"),
    Case("8b-lora-packed", "llama-3.1-8b", "LoRA", 8192, rows_per_step=32),
    Case("8b-lora-packed-checkpointing", "llama-3.1-8b", "LoRA", 16384, checkpointing=True, rows_per_step=48),
)
DRY = (
    Case("tiny-lora", "tiny", "LoRA", 4096, rows_per_step=4),
    Case("tiny-full", "tiny", "Full", 4096, zero_stage=2, rows_per_step=4),
)


def main() -> int:
    """Run the cases in turns; write gpu_training.json."""
    options = _parser().parse_args()
    if options.case:
        return _run_one(options)
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("gpu_training: skipped, this machine has no GPU (--dry-run proves the script)")
        return 0
    known = DRY if options.dry_run else CASES
    cases = [case for case in known if not options.only or case.name in options.only]
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            model = _model(Path(scratch) / case.shape, case.shape)
            results.append(_in_a_process(case, model))
            print(json.dumps(results[-1]), flush=True)
            _write(options.out, results)
    return 0 if all("error" not in result for result in results) else 1


def measure(case: Case, model: Path) -> dict[str, Any]:
    """Train a few steps in this process."""
    import torch

    from finetune_trainer.contracts import Offload
    from finetune_trainer.training import core
    from finetune_trainer.training.plan import Execution, Folders, LoraPlan, TrainPlan
    from finetune_trainer.training.signals import StopRequest

    packs: AbstractContextManager[Any] = (
        nullcontext() if case.layout is None else patch.object(core, "can_pack", lambda _: False)
    )
    rows = _rows(case.rows_per_step * STEPS, SHAPES[case.shape]["vocab_size"])
    execution = Execution(
        case.micro_batch_tokens,
        "Enabled" if case.checkpointing else "Disabled",
        case.zero_stage,
        cast("Offload", case.offload),
    )
    plan = TrainPlan(
        1, 1e-4, case.rows_per_step, 17, LoraPlan(16, 32) if case.method == "LoRA" else None, execution
    )
    marks: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = folder / "train.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        folders = Folders(model, data, folder / "checkpoints", folder / "output")
        with packs:
            outcome = core.train(
                plan,
                folders,
                "benchmark",
                StopRequest(),
                lambda done: marks.append((done.step, time.monotonic())),
            )
    lengths = [len(row["input_ids"]) for row in rows]
    return {
        **asdict(case),
        **_speed(marks, lengths, case.rows_per_step),
        "losses": [round(loss, 4) for loss in outcome.losses],
        **_memory(torch),
    }


def _speed(marks: list[tuple[int, float]], lengths: list[int], batch: int) -> dict[str, float]:
    from finetune_trainer.training.batching import tokens_of_steps

    times = dict(marks)
    tokens = tokens_of_steps(lengths, batch, 17, 1)[WARM_UP_STEPS:STEPS]
    seconds = times[STEPS] - times[WARM_UP_STEPS]
    return {
        "tokensPerSecond": round(sum(tokens) / seconds, 1),
        "meanRowTokens": round(sum(lengths) / len(lengths), 1),
    }


def _memory(torch: Any) -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"device": "cpu"}
    free, total = torch.cuda.mem_get_info()
    gib = 2**30
    return {
        "device": torch.cuda.get_device_name(),
        "totalGiB": round(total / gib, 2),
        "allocatedPeakGiB": round(torch.cuda.max_memory_allocated() / gib, 2),
        "reservedPeakGiB": round(torch.cuda.max_memory_reserved() / gib, 2),
        "contextGiB": round((total - free - torch.cuda.memory_reserved()) / gib, 2),
        "torch": torch.__version__,
    }


def _rows(count: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Random tokens; the last third of each row is trained."""
    chance = random.Random(17)
    rows = []
    for _ in range(count):
        length = min(LONGEST, max(SHORTEST, round(chance.lognormvariate(math.log(MEDIAN), 0.7))))
        ids = [chance.randrange(vocabulary) for _ in range(length)]
        rows.append({"input_ids": ids, "labels": [-100] * (2 * length // 3) + ids[2 * length // 3 :]})
    return rows


def _model(folder: Path, shape: str) -> Path:
    """A folder with random bf16 weights and a tokenizer that is only there to be loaded."""
    if folder.is_dir():
        return folder
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


def _in_a_process(case: Case, model: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu_training",
        "--case",
        json.dumps(asdict(case)),
        "--model",
        str(model),
    ]
    env = {
        **os.environ,
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
    }
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        return {**asdict(case), "error": done.stderr[-3000:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**result, "wallSeconds": round(time.monotonic() - start, 1)}


def _run_one(options: argparse.Namespace) -> int:
    print("\n" + json.dumps(measure(Case(**json.loads(options.case)), Path(options.model))))
    return 0


def _write(folder: Path, results: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_training.json").write_text(
        json.dumps({"benchmark": "gpu_training", "cases": results}, indent=2) + "\n"
    )


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
