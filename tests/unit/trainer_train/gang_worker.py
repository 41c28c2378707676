"""What test_sharding.py starts in every process of a gang: runs of the same base, one after the other."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finetune_trainer.training import core
from finetune_trainer.training.plan import Execution, Folders, Hardware, LoraPlan, TrainPlan
from finetune_trainer.training.signals import StopRequest

RANK = int(os.environ.get("RANK", "0"))
LORA = LoraPlan(8, 16)
QLORA = replace(LORA, quantized_base=True)
RUNS: dict[str, tuple[LoraPlan | None, Execution]] = {
    "LoRA": (LORA, Execution(1024)),
    "LoRA, ZeRO-3": (LORA, Execution(1024, zero_stage=3)),
    "LoRA, ZeRO-3, recomputed": (LORA, Execution(1024, "Enabled", zero_stage=3)),
    "LoRA, ZeRO-3, selective": (LORA, Execution(1024, "Selective", zero_stage=3)),
    "LoRA, ZeRO-3, resumed": (LORA, Execution(1024, zero_stage=3)),
    "QLoRA": (QLORA, Execution(1024)),
    "QLoRA, ZeRO-3": (QLORA, Execution(1024, zero_stage=3)),
    "QLoRA, ZeRO-3, resumed": (QLORA, Execution(1024, zero_stage=3)),
    "Full, ZeRO-2": (None, Execution(1024, zero_stage=2)),
    "Full, ZeRO-3": (None, Execution(1024, zero_stage=3)),
}


def local(weight: torch.nn.Parameter) -> int:
    """The elements that this process holds."""
    return int(weight.ds_tensor.numel() if hasattr(weight, "ds_id") else weight.numel())


def main(base: Path, dataset: Path, root: Path) -> None:
    """Write root/<run>-<rank>.json, and the output of each run to root/<run>."""
    for name, (lora, execution) in RUNS.items():
        seen: dict[str, Any] = {}
        load, save = core.load_model, core.save_output

        def loading(*arguments: Any, load: Any = load, seen: dict[str, Any] = seen) -> Any:
            model = load(*arguments)
            frozen = [w for n, w in model.named_parameters() if "lora_" not in n]
            seen["loaded"] = sum(map(local, frozen))
            seen["types"] = sorted({str(buffer.dtype) for _, buffer in model.named_buffers()})
            return model

        def saving(trainer: Any, *rest: Any, save: Any = save, seen: dict[str, Any] = seen) -> None:
            seen["trained"] = sum(local(w) for n, w in trainer.model.named_parameters() if "lora_" not in n)
            save(trainer, *rest)

        core.load_model, core.save_output = loading, saving
        shutil.rmtree(root / "checkpoints", ignore_errors=True)
        plan = TrainPlan(2, 1e-2, 8, 17, lora, execution)
        folders = Folders(base, dataset, root / "checkpoints", root / name)
        precision = Hardware(cuda=False, precision="bf16" if lora else "fp32")
        if name.endswith("resumed"):
            stop = StopRequest()
            stop(signal.SIGTERM, None)
            assert core.train(plan, folders, name, stop, lambda _: None, precision).stopped
            unset_hf_deepspeed_config()  # as if this were another process
        outcome = core.train(plan, folders, name, StopRequest(), lambda _: None, precision)
        unset_hf_deepspeed_config()
        core.load_model, core.save_output = load, save
        (root / f"{name}-{RANK}.json").write_text(json.dumps({**seen, "losses": outcome.losses}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*map(Path, sys.argv[1:]))
