"""Peak memory and speed of training on this machine's GPU beside what the plan predicts.

    PYTHONPATH=trainer_image:. python -m benchmarks.gpu_memory [--out FOLDER] [--peak-tflops 989.5]
    PYTHONPATH=trainer_image:. python -m benchmarks.gpu_memory --dry-run        (tiny models on the CPU)

Models are built from their shapes with random weights (neither memory nor speed depends on the values), so
it needs torch, transformers and peft, and no network. Each case trains three steps as the train stage does:
sdpa, LoRA with a bf16 base, an fp32 adapter, autocast and no input casts; Full with bf16 weights, fp32
gradients, master copy and moments, as ZeRO on one GPU holds them. Rows have 4,096 tokens, all but the first
are padded a little, two fifths of the tokens are trained, and only those are projected to the vocabulary, 512
at a time: TRL's fused head needs a little less. Writes gpu_memory.json and gpu_memory.md.

Peaks are of the second and third step: `allocated` and `reserved` are PyTorch's, `used` is what the device
lost at its highest to this process and its context (what nvidia-smi shows).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.record import machine
from finetune_trainer.planning.memory import GIB, Memory, Method, Setup, predict
from finetune_trainer.planning.shape import ModelShape, shape_of
from finetune_trainer.planning.time import mfu

RANK = 16
STEPS = 3
ROW = 4096
CHUNK = 512
TRAINED_SHARE = 0.4
PEAKS = {"H200": 989.5, "H100": 989.5, "A100": 312.0, "L40S": 362.0}
# A case that is predicted to need this much more than there is would only show that it fails.
HOPELESS = 1.2


def _config(model_type: str, *sizes: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size")
    return {"model_type": model_type, **dict(zip(names, sizes, strict=True)), **more}


MODELS = {
    "Llama-3.2-1B": _config("llama", 2048, 8192, 16, 32, 8, 128256, head_dim=64, tie_word_embeddings=True),
    "Qwen2.5-1.5B": _config("qwen2", 1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True),
    "Llama-3.1-8B": _config("llama", 4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False),
}
TINY = {
    "tiny-llama": _config("llama", 64, 160, 3, 4, 2, 512, tie_word_embeddings=True),
    "tiny-qwen2": _config("qwen2", 64, 160, 3, 4, 2, 512, tie_word_embeddings=False),
}


@dataclass(frozen=True)
class Case:
    """One measurement: `tokens` per micro-batch in rows of `row`."""

    model: str
    method: Method
    tokens: int
    checkpointing: bool
    row: int

    @property
    def setup(self) -> Setup:
        """The case as the plan knows it."""
        rank = None if self.method == "Full" else RANK
        return Setup(self.method, self.tokens, rank, checkpointing=self.checkpointing)


def cases(dry_run: bool) -> list[Case]:
    """What is measured, grouped by model and method, so that each is built once."""
    if dry_run:
        sizes, row, names, full = (64, 128), 64, list(TINY), ["tiny-llama"]
    else:
        sizes, row, names, full = (4096, 8192, 16384), ROW, list(MODELS), ["Llama-3.2-1B"]
    pairs: list[tuple[str, Method]] = [(name, "LoRA") for name in names]
    pairs += [(name, "Full") for name in full]
    return [
        Case(name, method, tokens, recompute, row)
        for name, method in pairs
        for recompute in (True, False)
        for tokens in sizes
    ]


class Trained:
    """A model with its optimizer, ready for steps."""

    def __init__(self, name: str, method: Method, device: torch.device) -> None:
        config = AutoConfig.for_model(**(MODELS | TINY)[name], max_position_embeddings=ROW, use_cache=False)
        with device:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        self.method, self.device = method, device
        self.model = _with_adapter(model) if method == "LoRA" else model
        self.model.train()
        self.inner = self.model.get_base_model() if method == "LoRA" else model
        self._step = self._adapter_step() if method == "LoRA" else self._full_step()

    def set_checkpointing(self, on: bool) -> None:
        """Recompute each layer in the backward pass, or keep everything."""
        if on:
            self.inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self.inner.gradient_checkpointing_disable()

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One forward, backward and optimizer step; the loss."""
        casts: AbstractContextManager[Any] = nullcontext()
        if self.method == "LoRA":
            casts = disable_input_dtype_casting(self.model)
        with casts:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.method == "LoRA"):
                loss = self._loss(batch)
            loss.backward()
        self._step()
        return float(loss.detach())

    def drop_gradients(self) -> None:
        """Forget what a failed step left behind."""
        self.model.zero_grad(set_to_none=True)

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean over trained tokens, whose hidden states are projected in chunks and never all at once."""
        output = self.inner.model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        trained = batch["labels"][:, 1:] != -100
        states = output.last_hidden_state[:, :-1][trained]
        targets = batch["labels"][:, 1:][trained]
        chunks = zip(states.split(CHUNK), targets.split(CHUNK), strict=True)
        parts = [checkpoint(self._chunk_loss, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(parts).sum() / targets.numel()

    def _chunk_loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(self.inner.lm_head(states).float(), targets, reduction="sum")

    def _adapter_step(self) -> Callable[[], None]:
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0, fused=True)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    def _full_step(self) -> Callable[[], None]:
        """fp32 master weights and gradients; a bf16 gradient lives only until it is added to its fp32 one."""
        masters = {weight: weight.detach().float() for weight in self.model.parameters()}
        for weight, master in masters.items():
            master.grad = torch.zeros_like(master)
            weight.register_post_accumulate_grad_hook(_adder(master))
        optimizer = torch.optim.AdamW(masters.values(), lr=1e-5, weight_decay=0.0, fused=True)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            with torch.no_grad():
                for weight, master in masters.items():
                    weight.copy_(master)

        return step


def main(arguments: list[str] | None = None) -> int:
    """Measure every case and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 of one GPU; known for H100, H200, A100")
    parser.add_argument("--dry-run", action="store_true", help="tiny models, on the CPU if there is no GPU")
    parser.add_argument("--seconds", type=float, default=280, help="start no case after this time")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not options.dry_run:
        print("Skipped: there is no CUDA device here; --dry-run shows on the CPU that the script works.")
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = list(_measured(cases(options.dry_run), device, _peak(options.peak_tflops), options.seconds))
    _write(options.out, results)
    return 0


def _measured(
    wanted: list[Case], device: torch.device, peak: float | None, seconds: float
) -> Iterator[dict[str, Any]]:
    end = time.monotonic() + seconds
    trained, built = None, ("", "")
    for case in wanted:
        shape = shape_of((MODELS | TINY)[case.model])
        memory = predict(shape, case.setup)
        reason = _why_not(memory, device, end)
        if reason is None and built != (case.model, case.method):
            trained = None  # freed before the next is built
            _collect(device)
            trained, built = Trained(case.model, case.method, device), (case.model, case.method)
        result = {**_described(case, memory), **({"skipped": reason} if reason else {})}
        if reason is None and trained is not None:
            result |= _run(trained, case, shape, peak)
        print(json.dumps(result), flush=True)
        yield result


def _why_not(memory: Memory, device: torch.device, end: float) -> str | None:
    if time.monotonic() > end:
        return "out of time"
    if device.type == "cuda" and memory.total > HOPELESS * torch.cuda.get_device_properties(0).total_memory:
        return "predicted to need far more than there is"
    return None


def _run(trained: Trained, case: Case, shape: ModelShape, peak: float | None) -> dict[str, Any]:
    trained.set_checkpointing(case.checkpointing)
    _collect(trained.device)
    try:
        return _timed(trained, case, shape, peak)
    except torch.cuda.OutOfMemoryError:
        trained.drop_gradients()
        return {"outOfMemory": True}


def _timed(trained: Trained, case: Case, shape: ModelShape, peak: float | None) -> dict[str, Any]:
    """The first step warms up; the others are timed and give the peak."""
    batch = _batch(case, shape.vocab, trained.device)
    trained.step(batch)
    cuda = trained.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    losses = [trained.step(batch) for _ in range(STEPS - 1)]  # float(loss) waits for the device
    if cuda:
        torch.cuda.synchronize()
    speed = int(batch["attention_mask"].sum()) * len(losses) / (time.perf_counter() - start)
    result: dict[str, Any] = {"tokensPerSecond": round(speed, 1), "losses": [round(x, 4) for x in losses]}
    if cuda:
        result |= _peaks()
    if peak:
        result["mfu"] = round(mfu(speed, shape, case.method, case.row, 1, peak), 4)
    return result


def _peaks() -> dict[str, float]:
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()  # the context, and what else is on the device
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    sizes = {"allocatedGiB": allocated, "reservedGiB": reserved, "usedGiB": reserved + outside}
    return {name: round(size / GIB, 2) for name, size in sizes.items()}


def _described(case: Case, memory: Memory) -> dict[str, Any]:
    return {
        "model": case.model,
        "method": case.method,
        "tokens": case.tokens,
        "checkpointing": case.checkpointing,
        "predictedGiB": round(memory.total / GIB, 2),
        "predicted": {name: round(size / GIB, 2) for name, size in memory.parts().items()},
    }


def _batch(case: Case, vocab: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Rows of random tokens; the first is full, the others are padded, the last 40 % of each are trained."""
    rows = case.tokens // case.row
    generator = torch.Generator().manual_seed(17)
    tokens = torch.randint(0, vocab, (rows, case.row), generator=generator)
    mask, labels = torch.ones_like(tokens), tokens.clone()
    labels[:, : int(case.row * (1 - TRAINED_SHARE))] = -100
    for row in range(1, rows):
        mask[row, -row * (case.row // 64) :] = 0
    labels[mask == 0] = -100
    batch = {"input_ids": tokens, "labels": labels, "attention_mask": mask}
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _with_adapter(model: Any) -> Any:
    config = LoraConfig(r=RANK, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _adder(master: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def add(weight: torch.Tensor) -> None:
        master.grad = weight.grad.float() if master.grad is None else master.grad.add_(weight.grad)
        weight.grad = None

    return add


def _collect(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _peak(given: float | None) -> float | None:
    if given or not torch.cuda.is_available():
        return given
    name = torch.cuda.get_device_name()
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def _write(folder: Path, results: list[dict[str, Any]]) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    total = torch.cuda.get_device_properties(0).total_memory / GIB if torch.cuda.is_available() else 0.0
    document = {
        "benchmark": "gpu_memory",
        "device": device,
        "deviceGiB": round(total, 2),
        "torch": torch.__version__,
        "machine": machine(),
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_memory.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / "gpu_memory.md").write_text(table(results))
    print(table(results))


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table, GiB; a case that did not run says why."""
    columns = "model|method|tokens|checkpointing|predicted|allocated|reserved|used|tokens/s|MFU"
    lines = [f"|{columns}|", "|---" * len(columns.split("|")) + "|"]
    for row in results:
        recompute = "on" if row["checkpointing"] else "off"
        fixed = f"{row['model']} | {row['method']} | {row['tokens']} | {recompute}"
        lines.append(f"| {fixed} | {row['predictedGiB']} | {_outcome(row)} |")
    return "\n".join(lines) + "\n"


def _outcome(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{row['skipped']} | | | |"
    if row.get("outOfMemory"):
        return "out of memory | | | |"
    names = ("allocatedGiB", "reservedGiB", "usedGiB", "tokensPerSecond", "mfu")
    return " | ".join(str(row.get(name, "")) for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
