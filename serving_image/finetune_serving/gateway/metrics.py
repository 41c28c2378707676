"""What Prometheus scrapes: the ledger's counts by name and version, then the engine's own metrics."""

from collections.abc import Callable, Iterator

import aiohttp
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from finetune_serving.gateway.book import Book
from finetune_serving.gateway.keys import KeyRing
from finetune_serving.gateway.ledger import Account, Ledger, Spread

_LABELS = ("alias", "version")
_ENGINE_TIMEOUT = aiohttp.ClientTimeout(total=5)
# vLLM adds a series of lora_requests_info for every set of adapters that ever ran together.
_UNBOUNDED = "vllm:lora_requests_info"

_COUNTERS: tuple[tuple[str, str, Callable[[Account], int]], ...] = (
    ("failures", "Requests with 5xx, a broken stream or an error inside it", lambda a: a.failures),
    ("stream_errors", "Streams that the engine ended with an error", lambda a: a.stream_errors),
    ("empty_answers", "Answers 200 without text or tool call", lambda a: a.empty),
    ("cut_answers", "Answers that ended at a limit of tokens", lambda a: a.cut),
    ("prompt_tokens", "Tokens of prompts, as the engine reports them", lambda a: a.prompt_tokens),
    ("generated_tokens", "Tokens of answers, as the engine reports them", lambda a: a.generated_tokens),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Account], Spread]], ...] = (
    ("request_duration_seconds", "Time from the request to its last byte", lambda a: a.duration),
    ("time_to_first_token_seconds", "Time to the first text (streams)", lambda a: a.first_token),
    ("inter_token_latency_seconds", "Time between two events with text (streams)", lambda a: a.token_gap),
)


class GatewayCollector(Collector):
    """Every listed name and version has its series from the start, at 0."""

    def __init__(self, book: Book, ledger: Ledger, keys: KeyRing) -> None:
        self._book = book
        self._ledger = ledger
        self._keys = keys

    def collect(self) -> Iterator[Metric]:
        """All metric families of the gateway."""
        accounts = sorted(self._ledger.accounts.items())
        yield _requests("requests", "Answered requests; 499 is a client that left", accounts, _codes)
        yield _requests("shadow_requests", "Copies of requests", accounts, lambda a: a.shadows)
        for name, text, count in _COUNTERS:
            counter = CounterMetricFamily(f"finetune_gateway_{name}", text, labels=_LABELS)
            for pair, account in accounts:
                counter.add_metric(pair, count(account))
            yield counter
        for name, text, spread in _HISTOGRAMS:
            yield _histogram(name, text, [(pair, spread(account)) for pair, account in accounts])
        yield from self._now(accounts)
        yield from self._by_key()

    def _now(self, accounts: list[tuple[tuple[str, str], Account]]) -> Iterator[Metric]:
        text = "Requests being answered"
        flight = GaugeMetricFamily("finetune_gateway_requests_in_flight", text, labels=_LABELS)
        for pair, account in accounts:
            flight.add_metric(pair, account.in_flight)
        yield flight
        text = "1 for an alias that this pod cannot have"
        unavailable = GaugeMetricFamily("finetune_gateway_alias_unavailable", text, labels=("alias",))
        for alias in self._book.table.aliases:
            unavailable.add_metric((alias,), float(alias in self._book.unavailable))
        yield unavailable

    def _by_key(self) -> Iterator[Metric]:
        text = "Entries of the Secret of API keys that hold no usable key"
        yield GaugeMetricFamily("finetune_gateway_unusable_keys", text, value=len(self._keys.unusable))
        names = self._keys.names
        text = "Answered requests by name of the API key"
        requests = CounterMetricFamily("finetune_gateway_key_requests", text, labels=("key", "code"))
        for (key, code), count in sorted(self._ledger.by_key.items()):
            if key in names:
                requests.add_metric((key, str(code)), count)
        yield requests
        text = "Tokens of prompts and answers by name of the API key"
        tokens = CounterMetricFamily("finetune_gateway_key_tokens", text, labels=("key",))
        for key in sorted(names):
            tokens.add_metric((key,), self._ledger.tokens_by_key[key])
        yield tokens


def _codes(account: Account) -> dict[int, int]:
    return {200: 0, **account.codes}


def _requests(
    name: str,
    text: str,
    accounts: list[tuple[tuple[str, str], Account]],
    codes: Callable[[Account], dict[int, int]],
) -> Metric:
    family = CounterMetricFamily(f"finetune_gateway_{name}", text, labels=(*_LABELS, "code"))
    for pair, account in accounts:
        for code, count in sorted(codes(account).items()):
            family.add_metric((*pair, str(code)), count)
    return family


def _histogram(name: str, text: str, spreads: list[tuple[tuple[str, str], Spread]]) -> Metric:
    family = HistogramMetricFamily(f"finetune_gateway_{name}", text, labels=_LABELS)
    for pair, spread in spreads:
        below, buckets = 0, []
        for bound, count in zip((*map(str, spread.bounds), "+Inf"), spread.counts, strict=True):
            below += count
            buckets.append((bound, float(below)))
        family.add_metric(pair, buckets, spread.total)
    return family


async def engine_metrics(engine: aiohttp.ClientSession) -> bytes:
    """The engine's own metrics in Prometheus' text format; a comment when it does not answer."""
    try:
        async with engine.get("/metrics", timeout=_ENGINE_TIMEOUT) as response:
            text = await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        text = ""
    kept = [line for line in text.splitlines() if not _dropped(line)]
    return ("\n".join(kept) + "\n" if kept else "# the engine does not answer\n").encode()


def _dropped(line: str) -> bool:
    name = line.removeprefix("# HELP ").removeprefix("# TYPE ").split("{", 1)[0].split(" ", 1)[0]
    return name == _UNBOUNDED or name.endswith("_created")
