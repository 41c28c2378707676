"""Why a version cannot be served, in one of the contract's reasons and a sentence for the user."""

from finetune_serving.documents import Reason


class RefusedError(Exception):
    """A version is refused. `retry` says whether waiting can help (a file may still appear)."""

    def __init__(self, reason: Reason, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry = retry
