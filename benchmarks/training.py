"""Training speed of the train stage beside TRL's SFTTrainer, on this machine's CPU.

    python -m benchmarks.training [--rows 64] [--repeats 3]

Every arm tunes SmolLM2-135M-Instruct with the same LoRA (r16, all linear layers) on the same rows of
examples/drug-reviews for one epoch, in a process of its own, in turns. Real tokens (no padding) per second of
`train()`, without start-up; the loss on held-out rows afterwards shows that all arms learned the same.

- ours: what the train stage runs
- trl-defaults: SFTTrainer with nothing set but what the task fixes (length, batch, rate, seed)
- trl-fp32: the same without bf16 and without recomputing activations, the fastest on processors without bf16
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import spread, write

ARMS = ("ours", "trl-defaults", "trl-fp32")
DATA = Path("examples/drug-reviews/data")
HELD_OUT = 32
LENGTH, BATCH, RATE, SEED, RANK, ALPHA = 512, 8, 1e-3, 17, 16, 32


def main() -> None:
    """Run all arms in turns and record speeds, ratios and held-out losses."""
    options = _parser().parse_args()
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.rows, Path(options.model))))
        return
    from dev import assets
    from dev.cluster.home import home

    model = assets.base_model(home())
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.repeats):
        for arm in ARMS:
            runs[arm].append(_in_a_process(arm, options.rows, model))
            print(arm, runs[arm][-1], flush=True)
    print(
        "written:", write("training", summary(runs, options.rows), ("torch", "transformers", "trl", "peft"))
    )


def summary(runs: dict[str, list[dict[str, float]]], rows: int) -> dict[str, Any]:
    """Speeds per arm, and ours over each other arm in the same turn."""
    arms = {
        arm: {
            "tokensPerSecond": spread([r["tokensPerSecond"] for r in results]),
            "heldOutLoss": spread([r["heldOutLoss"] for r in results]),
        }
        for arm, results in runs.items()
    }
    ratios = {
        arm: spread(
            [
                mine["tokensPerSecond"] / other["tokensPerSecond"]
                for mine, other in zip(runs["ours"], runs[arm], strict=True)
            ]
        )
        for arm in ARMS[1:]
    }
    return {"rows": rows, "repeats": len(runs["ours"]), "arms": arms, "oursOverOther": ratios}


def run_arm(arm: str, count: int, model: Path) -> dict[str, float]:
    """Train once; speed in real tokens per second and the loss on held-out rows (mean per trained token)."""
    rows = encoded(model, "train.jsonl", count)
    tokens = sum(len(row["input_ids"]) for row in rows)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        seconds = _ours(model, rows, folder) if arm == "ours" else _trl(arm, model, count, folder)
        loss = held_out_loss(model, folder / "adapter", encoded(model, "holdout.jsonl", HELD_OUT))
    return {
        "tokensPerSecond": round(tokens / seconds, 1),
        "seconds": round(seconds, 1),
        "heldOutLoss": round(loss, 4),
    }


def encoded(model: Path, name: str, count: int) -> list[dict[str, list[int]]]:
    """The first rows of a file as prepare tokenises them."""
    from finetune_trainer.chat.tokenizer import load_tokenizer
    from finetune_trainer.data.formats import canonical
    from finetune_trainer.data.tokenise import encode_rows

    lines = (DATA / name).read_text().splitlines()[:count]
    rows = [canonical(number, json.loads(line)) for number, line in enumerate(lines, 1)]
    cut = [row.cut(LENGTH) for row in encode_rows(load_tokenizer(model), rows)]
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in cut]


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


def _ours(model: Path, rows: list[dict[str, list[int]]], folder: Path) -> float:
    from finetune_trainer.training.core import train
    from finetune_trainer.training.plan import Execution, Folders, LoraPlan, TrainPlan
    from finetune_trainer.training.signals import StopRequest

    dataset = folder / "train.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = Folders(model, dataset, folder / "checkpoints", folder / "adapter")
    plan = TrainPlan(1, RATE, BATCH, SEED, LoraPlan(RANK, ALPHA), Execution(1024))
    outcome = train(plan, folders, "benchmark", StopRequest(), lambda _: None)
    return outcome.seconds


def _trl(arm: str, model: Path, count: int, folder: Path) -> float:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    lines = (DATA / "train.jsonl").read_text().splitlines()[:count]
    messages = [json.loads(line)["messages"] for line in lines]
    dataset = Dataset.from_list([{"prompt": m[:-1], "completion": m[-1:]} for m in messages])
    tuned = {"gradient_checkpointing": False, "bf16": False} if arm == "trl-fp32" else {}
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(folder / "out"), max_length=LENGTH, per_device_train_batch_size=BATCH,
            num_train_epochs=1, learning_rate=RATE, lr_scheduler_type="cosine", warmup_steps=0.03, seed=SEED,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1, **tuned,
        ),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(str(model)),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    start = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - start
    trainer.save_model(str(folder / "adapter"))
    return seconds


def _in_a_process(arm: str, rows: int, model: Path) -> dict[str, float]:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", "29533"]
    arguments = ["--arm", arm, "--rows", str(rows), "--model", str(model)]
    command = [sys.executable, *torchrun, "-m", "benchmarks.training", *arguments]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
