"""What a run may cost, and what it is to save."""

from __future__ import annotations

from pydantic import Field

from finetune_operator.api.parts import Amount, Currency
from finetune_operator.api.schema import ApiModel


class Budget(ApiModel):
    """What the GPUs and the judge of the run may cost. No price is built in."""

    limit: Amount = Field(
        description="The most that the run may cost, a decimal number as a string. A run that is expected to "
        "cost more waits before its first GPU; one that has cost as much is stopped after a checkpoint. "
        "Raising the limit lets it go on; it cannot be lowered."
    )
    currency: Currency = Field(
        description="Currency of the limit, which must be that of the price of the gpuType, for example USD. "
        "Without GPUs it is that of the judge's prices."
    )


class Savings(ApiModel):
    """What the tuned model saves in use, from which status.cost tells when the run has paid for itself."""

    calls_per_month: int = Field(description="Calls of the application in a month.", ge=1, le=10**12)
    removed_prompt_tokens: int = Field(
        description="Prompt tokens of each call that the tuned model makes unnecessary.", ge=1, le=10**7
    )
    price_per_million_tokens: Amount = Field(
        description="Price of a million prompt tokens today, in the currency of the gpuType, a decimal "
        "number as a string."
    )
