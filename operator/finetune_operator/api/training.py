"""How a FineTuneJob trains: method, adapter, length and speed, and the use of memory."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from finetune_operator.api.parts import FRACTION
from finetune_operator.api.schema import ApiModel, Cel

Method: TypeAlias = Literal["LoRA", "QLoRA", "Full"]
FallbackMethod: TypeAlias = Literal["QLoRA"]
GradientCheckpointing: TypeAlias = Literal["Enabled", "Selective", "Disabled"]
Offload: TypeAlias = Literal["None", "Optimizer", "All"]


class Lora(ApiModel):
    """Size and place of the adapter."""

    rank: int | None = Field(
        None, description="Rank of the adapter's matrices: more capacity, more memory.", ge=1, le=256
    )
    alpha: int | None = Field(None, description="Scale of the adapter, often twice the rank.", ge=1, le=1024)
    rank_stabilized: bool | None = Field(
        None,
        description="Scale by alpha / sqrt(rank) instead of alpha / rank (rsLoRA), which keeps high ranks "
        "learning as fast as low ones. Default: false.",
    )
    target_modules: (
        Annotated[
            tuple[Annotated[str, Field(pattern="^[A-Za-z0-9_]+$", max_length=64)], ...],
            Field(min_length=1, max_length=32),
        ]
        | None
    ) = Field(
        None,
        description="Names of the linear layers that the adapter sits on, for example q_proj and v_proj. "
        "Default: all of the language model's decoder layers, without routed experts and routers.",
    )


class Training(ApiModel):
    """How long and how fast, which is bounded: too much of either damages general ability; and how memory
    is used, which changes speed and never the result.
    """

    rules = (
        Cel(
            "!has(self.offload) || !has(self.zeroStage) || self.offload == 'None' || self.zeroStage == 3 || "
            "(self.offload == 'Optimizer' && self.zeroStage > 0)",
            "offload: Optimizer needs zeroStage 1, 2 or 3, and offload: All needs zeroStage 3; raise "
            "zeroStage or leave it out",
            ".offload",
        ),
    )

    epochs: int | None = Field(None, description="Passes over the training data.", ge=1, le=25)
    learning_rate: (
        Annotated[
            str,
            Field(min_length=1, max_length=20),
            Cel(
                f"self.matches('{FRACTION}') && double(self) > 0.0000001 && double(self) <= 0.01",
                'must be a number as a string, above 1e-7 and at most 1e-2, for example "2e-4"',
            ),
        ]
        | None
    ) = Field(None, description='Peak learning rate, a number as a string, for example "2e-4".')
    effective_batch_size: int | None = Field(
        None,
        description="Rows of one optimizer step over all processes, whatever their number. Must be divisible "
        "by the number of processes that resources ask for.",
        ge=1,
        le=1024,
    )
    max_length: int | None = Field(
        None, description="Longest row in tokens, prompt and answer.", ge=16, le=131072
    )
    seed: int | None = Field(None, description="Seed of everything random.", ge=0, le=2**31 - 1)
    micro_batch_tokens: int | None = Field(
        None,
        description="Tokens that one GPU processes at once: more is faster and needs more memory. What is "
        "left out the memory plan chooses, see status.plan.",
        ge=64,
        le=131072,
    )
    gradient_checkpointing: GradientCheckpointing | None = Field(
        None,
        description="Enabled computes activations a second time instead of keeping them: a third slower, and "
        "far less memory. Selective keeps those of attention and computes the rest again. What is left out "
        "the memory plan chooses.",
    )
    zero_stage: int | None = Field(
        None,
        description="What DeepSpeed ZeRO spreads over the GPUs; 0 nothing, 1 the optimizer, 2 the gradients "
        "too, 3 the weights too. Methods LoRA and QLoRA take 0 or 3. What is left out the memory plan "
        "chooses.",
        ge=0,
        le=3,
    )
    offload: Offload | None = Field(
        None,
        description="Method Full: what waits in the memory of the node instead of the GPU; much slower. What "
        "is left out the memory plan chooses.",
    )
