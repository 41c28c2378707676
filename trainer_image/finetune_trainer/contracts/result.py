"""result.json, the outcome of one stage (trainer -> operator)."""

from typing import Any, Literal

from pydantic import Field

from finetune_trainer.contracts.document import Document

Outcome = Literal["Succeeded", "Failed", "Interrupted"]


class Result(Document):
    """How a stage ended; `summary` holds plain JSON values (shapes in docs/contracts.md)."""

    schema_version: Literal[1] = 1
    stage: str
    input_digest: str
    outcome: Outcome
    reason: str
    message: str
    summary: dict[str, Any] = Field(default_factory=dict)
