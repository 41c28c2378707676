"""One training run: model, data and plan in; adapter or model folder, or a checkpoint, out."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from trl import SFTConfig

from finetune_trainer.base.config import read_base_config
from finetune_trainer.container import multiplies_in_bf16
from finetune_trainer.environment import hang_seconds
from finetune_trainer.trained_rows import map_rows, row_lengths
from finetune_trainer.training.attention import (
    PACKED,
    can_pack,
    keep_only_attention,
    register,
    unpacked_attention,
)
from finetune_trainer.training.batching import (
    Collator,
    Layout,
    global_batches,
    micro_batches_per_step,
    tokens_of_steps,
)
from finetune_trainer.training.callbacks import (
    CheckpointCallback,
    DivergenceCallback,
    ProgressCallback,
    ReportStep,
    Speed,
    StepReport,
)
from finetune_trainer.training.checkpoints import Sharding
from finetune_trainer.training.compiling import CompileCallback
from finetune_trainer.training.model import load_model, skeleton
from finetune_trainer.training.patience import Patience
from finetune_trainer.training.plan import Folders, Hardware, TrainPlan, cpu_precision
from finetune_trainer.training.resuming import Start, find_start
from finetune_trainer.training.saving import save_output
from finetune_trainer.training.sharding import (
    deepspeed_config,
    keep_from_compiling,
    keeps_masters,
    longest_wait,
    start_group,
)
from finetune_trainer.training.signals import SaveClock, StopRequest, maximum
from finetune_trainer.training.trainer import TokenMeanTrainer, without_input_casts

_WARMUP = 0.03
_LAST_LOSSES = 10


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `losses` and `learning_rates` per step since step 1; what is below, of this attempt.

    `seconds` is all of its time; `tokens_per_second` counts optimizer steps only (callbacks.Speed), None when
    there were fewer than two.
    """

    stopped: bool
    steps: int
    losses: tuple[float, ...]
    learning_rates: tuple[float, ...]
    tokens: int
    seconds: float
    tokens_per_second: float | None
    resumed_from: int
    world_size: int
    peak_bytes: int | None = None  # the most that tensors took on any GPU; None on the CPU

    @property
    def final_loss(self) -> float | None:
        """The mean loss of the last steps; None when there was none."""
        last = self.losses[-_LAST_LOSSES:]
        return sum(last) / len(last) if last else None


def local_hardware(full: bool) -> Hardware:
    """bf16 on CUDA, else what suits the processor."""
    if torch.cuda.is_available():
        return Hardware(cuda=True, precision="bf16")
    return Hardware(cuda=False, precision=cpu_precision(full, multiplies_in_bf16()))


def train(
    plan: TrainPlan,
    folders: Folders,
    key: str,
    stop: StopRequest,
    report: ReportStep,
    hardware: Hardware | None = None,
    finish: Callable[[Path], None] = lambda _: None,
) -> Outcome:
    """Run or resume the training of `key` in every process of the group; Diverged when the loss is lost.

    `finish` may complete the output folder (first process only) before it appears under its name.
    """
    hardware = hardware or local_hardware(full=plan.lora is None)
    patience = _patience(plan, folders, hardware)
    report(StepReport("loading the model", patience.loading))
    keep_from_compiling()
    trainer = _build_trainer(plan, folders, hardware)
    report(StepReport("looking for a checkpoint", patience.resuming))
    speed = Speed(tokens_of_steps(trainer.lengths, plan.effective_batch_size, plan.seed, plan.epochs))
    sharding = Sharding(trainer.args.world_size, plan.execution.zero_stage)
    rewriting = partial(report, StepReport("rewriting the checkpoint", patience.rewriting))
    start = find_start(folders.checkpoints, key, trainer.args.process_index, sharding, rewriting)
    clock = SaveClock(plan.checkpoint_seconds, time.monotonic)
    checkpointing = CheckpointCallback(key, sharding, stop, clock, speed)
    progress = ProgressCallback(speed, clock, patience, report, start.message)
    compiling = CompileCallback(plan.execution, folders.checkpoints.with_name("compiled"), speed)
    # A step that diverged must not be saved, and progress marks the steps by which compiling decides.
    for callback in (DivergenceCallback(), progress, checkpointing, compiling):
        trainer.add_callback(callback)
    seconds = _run(trainer, start)
    if not checkpointing.stopped:
        report(StepReport("writing the result", patience.finishing))
        save_output(trainer, folders.model, folders.output, finish)
    return _outcome(trainer, speed, checkpointing.stopped, seconds, start.step)


def _patience(plan: TrainPlan, folders: Folders, hardware: Hardware) -> Patience:
    told = {name: int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "GROUP_WORLD_SIZE")}
    return Patience(
        at_least=hang_seconds(os.environ),
        base_bytes=sum(path.stat().st_size for path in folders.model.glob("*.safetensors")),
        checkpoint_bytes=plan.checkpoint_bytes,
        processes=told["WORLD_SIZE"],
        nodes=told["GROUP_WORLD_SIZE"],
        cuda=hardware.cuda,
    )


def load_rows(path: Path) -> Dataset:
    """The tokenised rows, which stay in the file; without a fingerprint datasets would copy and hash them."""
    return Dataset(map_rows(path), fingerprint=path.name)


def _build_trainer(plan: TrainPlan, folders: Folders, hardware: Hardware) -> TokenMeanTrainer:
    base, dataset = read_base_config(folders.model), load_rows(folders.dataset)
    lengths = row_lengths(dataset.data)
    register(hardware.cuda)
    packed = can_pack(skeleton(folders.model, base).get_decoder(), base)
    layout: Layout = "packed" if packed else "padded"
    # Before the model, which is sharded from the start only if DeepSpeed's configuration is there.
    arguments = _arguments(plan, folders, hardware, _accumulation(plan, lengths, layout))
    start_group(arguments, longest_wait(plan.checkpoint_bytes))
    attention = PACKED if packed else unpacked_attention(base)
    trainer = TokenMeanTrainer(
        lengths=lengths,
        batch_size=plan.effective_batch_size,
        layout=layout,
        model=load_model(folders.model, base, plan, hardware, attention),
        args=arguments,
        train_dataset=dataset,
        data_collator=Collator(layout),
        processing_class=AutoTokenizer.from_pretrained(str(folders.model), local_files_only=True),
    )
    trainer.remove_callback(PrinterCallback)
    if plan.execution.gradient_checkpointing == "Selective":
        keep_only_attention(trainer.model)
    return trainer


def _accumulation(plan: TrainPlan, lengths: list[int], layout: Layout) -> int:
    """Micro-batches per step, equal in every step and process."""
    size, world = plan.effective_batch_size, int(os.environ.get("WORLD_SIZE", "1"))
    batches = [
        batch
        for epoch in range(plan.epochs)
        for batch in global_batches(len(lengths), size, plan.seed, epoch)
    ]
    return micro_batches_per_step(batches, lengths, world, plan.execution.micro_batch_tokens, layout)


def _arguments(plan: TrainPlan, folders: Folders, hardware: Hardware, accumulation: int) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folders.checkpoints),
        num_train_epochs=plan.epochs,
        learning_rate=plan.learning_rate,
        per_device_train_batch_size=1,  # the sampler yields whole micro-batches
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type="cosine",
        warmup_steps=_WARMUP,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        seed=plan.seed,
        bf16=keeps_masters(plan.lora is None, hardware.precision, plan.execution),
        use_cpu=not hardware.cuda,
        gradient_checkpointing=plan.execution.gradient_checkpointing == "Enabled",  # Selective: our own
        deepspeed=deepspeed_config(plan.lora is None, hardware.precision, plan.execution),
        save_strategy="no",  # CheckpointCallback decides
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show a made-up loss instead of the divergence
        disable_tqdm=True,
        report_to="none",
        # It depends on how a batch is cut into micro-batches, so its losses would differ between devices.
        router_aux_loss_coef=0.0,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        average_tokens_across_devices=True,
    )


def _run(trainer: TokenMeanTrainer, start: Start) -> float:
    """Train from there to the end or until a stop; the seconds that it took."""
    if start.universal:
        trainer.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    begun = time.monotonic()
    with without_input_casts(trainer):
        trainer.train(resume_from_checkpoint=str(start.checkpoint) if start.checkpoint else None)
    return time.monotonic() - begun


def _outcome(
    trainer: TokenMeanTrainer, speed: Speed, stopped: bool, seconds: float, resumed_from: int
) -> Outcome:
    state = trainer.state
    logged = [entry for entry in state.log_history if "loss" in entry]
    return Outcome(
        stopped=stopped,
        steps=state.global_step,
        losses=tuple(entry["loss"] for entry in logged),
        learning_rates=tuple(entry["learning_rate"] for entry in logged),
        tokens=speed.tokens_between(resumed_from, state.global_step),
        seconds=seconds,
        tokens_per_second=speed.average,
        resumed_from=resumed_from,
        world_size=trainer.args.world_size,
        peak_bytes=_peak_bytes(trainer.args.device) if torch.cuda.is_available() else None,
    )


def _peak_bytes(device: torch.device) -> int:
    """The most that tensors took on any GPU of the gang; collective."""
    return maximum(torch.cuda.max_memory_allocated(), device)
