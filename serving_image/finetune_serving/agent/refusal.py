"""Why a version cannot be served, in one of the contract's reasons and a sentence for the user."""

from typing import Self

from pydantic import ValidationError

from finetune_serving.documents import Reason


class RefusedError(Exception):
    """A version is refused. `retry` says whether waiting can help (a file may still appear)."""

    def __init__(self, reason: Reason, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry = retry

    @classmethod
    def of_document(cls, name: str, error: ValidationError) -> Self:
        """The refusal of a JSON document that is not as it must be: names the first field that is wrong."""
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200] or "the document"
        return cls("InvalidArtifact", f"{name} is invalid at {where}: {first['msg'][:200]}.")
