"""The DeepSpeed configuration, and the settings that DeepSpeed lacks."""

from datetime import timedelta
from typing import Any

from torch.distributed import distributed_c10d
from transformers import TrainingArguments

from finetune_trainer.training.patience import SLOW_VOLUME, STARTING
from finetune_trainer.training.plan import Execution, Precision

_BUCKET = 50_000_000  # elements that are reduced at once


def deepspeed_config(full: bool, precision: Precision, execution: Execution) -> dict[str, Any]:
    """The planned ZeRO stage and offload, with gradients added up and averaged in fp32.

    bf16 means bf16 weights with DeepSpeed's fp32 copies for Full with ZeRO, else autocast: without ZeRO
    DeepSpeed keeps no fp32 copies, and of an adapter its bf16 would round the weights, which costs more
    (0.011 of held-out loss after 48 rows) than it saves. With LoRA the base is bf16 and the adapter fp32.
    DeepSpeed must be told: its engine switches off an autocast of somebody else's. "auto" is filled in from
    the training arguments.
    """
    rounded = keeps_masters(full, precision, execution)
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": rounded},
        "fp16": {"enabled": False},
        "torch_autocast": {
            "enabled": precision == "bf16" and not rounded,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients are averaged in fp32
        },
        # DeepSpeed's default is the weights' type: with bf16, many micro-batches would add up to other sums.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": _zero(execution) if execution.zero_stage else {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
    }


def keeps_masters(full: bool, precision: Precision, execution: Execution) -> bool:
    """Whether DeepSpeed trains bf16 weights by fp32 copies of its own."""
    return full and precision == "bf16" and execution.zero_stage > 0


def keep_from_compiling() -> None:
    """Tell DeepSpeed to do without its shared-memory communication operator on the CPU.

    It would be compiled at the first start (about 50 s, needs g++ and a writable folder) and serves
    inference only: gradients go through gloo or NCCL either way.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


def keep_types_when_sharding() -> None:
    """Let zero.Init build a model in the types that it has unsharded.

    By default it makes everything the type of DeepSpeed's own mixed precision: frozen bf16 weights would be
    fp32, or the frequencies of rotary positions bf16. transformers opens zero.Init without this argument.
    """
    from deepspeed.runtime.zero import partition_parameters

    partition_parameters.DEFAULT_TENSOR_OVERRIDES[:] = [partition_parameters.DeepSpeedTensorOverride.device]


def longest_wait(moved: int) -> timedelta:
    """How long a process may wait for one that reads or writes so many bytes.

    Neither an ended process nor a hang is left to this time: process 1 (launch/gang.py) finds the one within
    seconds, and by default ends the other in half of it, with the stacks of all.
    """
    return timedelta(seconds=2 * STARTING + moved / SLOW_VOLUME)


def start_group(arguments: TrainingArguments, timeout: timedelta) -> None:
    """Connect the processes through DeepSpeed: zero.Init does not see them otherwise.

    `timeout` is that of every collective. It is set afterwards since the group is there once the training
    arguments are made, and on CPUs accelerate does not hand their `ddp_timeout` on. torch's defaults are for
    the groups that DeepSpeed makes of the same processes, which would have 10 minutes with NCCL.
    """
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo" if arguments.use_cpu else "nccl")
    distributed_c10d._set_pg_timeout(timeout)
    distributed_c10d.default_pg_timeout = distributed_c10d.default_pg_nccl_timeout = timeout


def _zero(execution: Execution) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "stage": execution.zero_stage,
        "overlap_comm": False,
        "contiguous_gradients": True,
        "reduce_bucket_size": _BUCKET,
        "allgather_bucket_size": _BUCKET,
    }
    if execution.zero_stage == 3:
        settings["stage3_gather_16bit_weights_on_model_save"] = True
    if execution.offload != "None":
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if execution.offload == "All":
        settings["offload_param"] = {"device": "cpu", "pin_memory": True}
    return settings
