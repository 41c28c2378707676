"""The DeepSpeed configuration, and the one setting that DeepSpeed lacks."""

from typing import Any

from finetune_trainer.training.plan import Execution, Precision

_BUCKET = 50_000_000  # elements reduced at once: small enough to overlap with the backward pass


def deepspeed_config(full: bool, precision: Precision, execution: Execution) -> dict[str, Any]:
    """The planned ZeRO stage and offload: 0 for LoRA, whose few gradients are averaged, not sharded.

    An adapter's optimizer state is a few MB, so sharding it would only add traffic. DeepSpeed's bf16 would
    round the adapter's weights too, which costs more (0.011 of held-out loss after 48 rows) than it saves:
    with LoRA the base is bf16, the adapter fp32 and the arithmetic autocast. DeepSpeed must be told: its
    engine switches off an autocast of somebody else's. "auto" is filled in from the training arguments.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": full and precision == "bf16"},
        "fp16": {"enabled": False},
        "torch_autocast": {
            "enabled": not full and precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # gradients of the adapter are averaged in fp32
        },
        "zero_optimization": _zero(execution) if execution.zero_stage else {"stage": 0},
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
    }


def keep_from_compiling() -> None:
    """Tell DeepSpeed to do without its shared-memory communication operator on the CPU.

    It would be compiled at the first start (about 50 s, needs g++ and a writable folder) and serves
    inference only: gradients go through gloo or NCCL either way.
    """
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False


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
