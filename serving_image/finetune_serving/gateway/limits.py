"""How much one pod takes at a time, and how many tokens a key may use per minute."""

import math
import time

from finetune_serving.documents import RequestLimits
from finetune_serving.gateway.errors import too_many
from finetune_serving.gateway.ledger import Call, Ledger

# Half of the memory that the operator gives to the gateway's container (1 GiB).
MOST_BODY_BYTES = 512 * 1024 * 1024
SCORING_PLACES = 2


def check_pod(limits: RequestLimits, ledger: Ledger, call: Call) -> None:
    """Refuse a call whose pod or key has too many in flight, before its body is read."""
    if limits.max_in_flight is not None and ledger.in_flight > limits.max_in_flight:
        text = f"This replica answers {limits.max_in_flight} requests at a time already; try again shortly."
        raise too_many(text)
    most = limits.max_in_flight_per_key
    if call.key and most is not None and ledger.busy(key=call.key) > most:
        raise too_many(f"The API key `{call.key}` may have {most} requests in flight on a replica.")


def check_alias(limits: RequestLimits, ledger: Ledger, call: Call) -> None:
    """Refuse a call whose model has too many in flight."""
    most = limits.max_in_flight_per_alias
    if most is not None and ledger.busy(alias=call.alias) > most:
        raise too_many(f"The model `{call.alias}` may have {most} requests in flight on a replica.")


def check_scoring(limits: RequestLimits, ledger: Ledger) -> None:
    """Refuse a call of a run that scores: all runs have few places, and none of a replica that users need."""
    if ledger.scoring > SCORING_PLACES:
        raise too_many(f"Runs that score here may have {SCORING_PLACES} requests in flight on a replica.")
    most = limits.max_in_flight
    if most is not None and ledger.in_flight > most / 2:
        raise too_many("Users ask for more than half of what this replica takes; try again shortly.")


def take_bytes(ledger: Ledger, call: Call, size: int) -> None:
    """Count a part of a call's body as held; refuse when all bodies together would fill the memory."""
    ledger.body_bytes += size
    call.body_bytes += size
    if ledger.body_bytes > MOST_BODY_BYTES:
        raise too_many("This replica holds as many large requests as it has memory for; try again shortly.")


class TokenRates:
    """Tokens that each key has left; they come back evenly over a minute, up to a minute's worth.

    What an answer costs is known only at its end, so a key may go below zero once and then waits.
    """

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def check(self, key: str, per_minute: int | None) -> None:
        """Refuse a call of a key that has nothing left."""
        if per_minute is None or not key:
            return
        left = self._now(key, per_minute)
        if left < 1:
            wait = math.ceil((1 - left) * 60 / per_minute)
            text = f"The API key `{key}` has used its {per_minute} tokens per minute on this replica."
            raise too_many(text, kind="tokens", retry_after=wait)

    def spend(self, key: str, per_minute: int | None, tokens: int) -> None:
        """Take the tokens of an answer."""
        if per_minute is not None and key:
            self._left[key] = (self._now(key, per_minute) - tokens, time.monotonic())

    def _now(self, key: str, per_minute: int) -> float:
        now = time.monotonic()
        left, then = self._left.get(key, (float(per_minute), now))
        return min(left + (now - then) * per_minute / 60, float(per_minute))
