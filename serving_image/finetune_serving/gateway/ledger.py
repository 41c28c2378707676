"""What is asked of each version and what came of it, for /state, limits, drains and metrics."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from finetune_serving.documents import Counts
from finetune_serving.gateway.answers import Reading

CLIENT_LEFT = 499  # as nginx counts a client that closed before its answer was whole
# Seconds for which the counts of a version that left can still be scraped.
KEEP_SECONDS = 600.0
DURATIONS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Spread:
    """Counts of values (seconds) by upper bound, as a Prometheus histogram has them."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Account:
    """All counts of one version behind one public name; `left` is when it was dropped (monotonic seconds)."""

    in_flight: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    failures: int = 0
    stream_errors: int = 0
    empty: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_byte_seconds: float = 0.0
    shadows: Counter[int] = field(default_factory=Counter)
    duration: Spread = field(default_factory=lambda: Spread(DURATIONS))
    first_token: Spread = field(default_factory=lambda: Spread(DURATIONS))
    token_gap: Spread = field(default_factory=lambda: Spread(TOKEN_GAPS))
    left: float | None = None


@dataclass(eq=False)
class Call:
    """One request, from its first byte to the last of its answer.

    `alias` is the public name it asked for, "" until that is known to exist; `version` and `account` are
    those that answer it. `status` is the HTTP code of the answer, `begun` whether its head has been sent.
    `deadline` ends it early when its version has to go. `trace` holds the headers that join the engine's
    spans to ours, if we make any. `scores`: a run that scores asks, and users come before it. `texts`
    counts events with text. Times are monotonic seconds.
    """

    started: float
    deadline: asyncio.Timeout
    key: str = ""
    alias: str = ""
    version: str = ""
    account: Account | None = None
    request_id: str = ""
    trace: Mapping[str, str] | None = None
    shadow: bool = False
    scores: bool = False
    status: int = CLIENT_LEFT
    begun: bool = False
    body_bytes: int = 0
    failed: bool = False
    stream_error: bool = False
    text: bool = False
    cut: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0
    texts: int = 0
    first_byte: float | None = None
    last_token: float | None = None

    @property
    def spent(self) -> int:
        """Tokens of prompt and answer; where a stream ended before it told them, at least one per text."""
        return (self.prompt_tokens + self.generated_tokens) or self.texts

    def take(self, reading: Reading) -> None:
        """Note what an answer or one event of it says."""
        self.text = self.text or reading.text
        self.texts += reading.text
        self.cut = self.cut or reading.cut
        self.prompt_tokens = reading.prompt_tokens or self.prompt_tokens
        self.generated_tokens = reading.generated_tokens or self.generated_tokens
        if reading.failed:
            self.failed = self.stream_error = True


class Ledger:
    """Every request of this process.

    `last_asked` and `last_byte` are when the engine last got a request and last sent anything to a client
    (monotonic seconds); `body_bytes` are held for requests in flight; `by_key` counts answers by name of the
    API key and code.
    """

    def __init__(self) -> None:
        self.accounts: dict[tuple[str, str], Account] = {}
        self.by_key: Counter[tuple[str, int]] = Counter()
        self.tokens_by_key: Counter[str] = Counter()
        self.last_asked = self.last_byte = time.monotonic()
        self.body_bytes = 0
        # By version, then alias: the agent asks for every version several times a second.
        self._of_version: defaultdict[str, dict[str, Account]] = defaultdict(dict)
        self._open: set[Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._busy = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._open)

    @property
    def owed(self) -> bool:
        """Whether the engine has something to answer; a request whose client gave up is a question too."""
        return self.in_flight > 0 or self.last_asked > self.last_byte

    @property
    def scoring(self) -> int:
        """Requests of runs that score which are not answered yet."""
        return sum(call.scores for call in self._open)

    def busy(self, *, alias: str | None = None, key: str | None = None) -> int:
        """How many requests of an alias or of a key are not answered yet."""
        open_calls = (call for call in self._open if not call.shadow)
        return sum(alias in (None, call.alias) and key in (None, call.key) for call in open_calls)

    def tally(self, version: str) -> Counts:
        """The counts of a version behind all its names; zeros for one that was never asked."""
        accounts = self._of_version.get(version, {}).values()
        return Counts(
            in_flight=sum(a.in_flight for a in accounts),
            requests=sum(a.duration.count for a in accounts),
            failures=sum(a.failures for a in accounts),
            empty=sum(a.empty for a in accounts),
            cut=sum(a.cut for a in accounts),
            seconds=round(sum(a.duration.total for a in accounts), 6),
            first_byte_seconds=round(sum(a.first_byte_seconds for a in accounts), 6),
        )

    @contextmanager
    def call(self, deadline: asyncio.Timeout, *, shadow: bool = False) -> Iterator[Call]:
        """One request; it is counted when it ends, whatever its end."""
        call = Call(time.monotonic(), deadline, shadow=shadow)
        self._open.add(call)
        self._idle.clear()
        self._busy.set()
        try:
            yield call
        finally:
            self._leave(call)
            self._open.remove(call)
            self.body_bytes -= call.body_bytes
            self._count(call)
            if not self._open:
                self._idle.set()
                self._busy.clear()

    def enter(self, call: Call, alias: str, version: str) -> None:
        """Count a call as in flight for the version that was chosen for it, instead of an earlier one."""
        self._leave(call)
        call.alias, call.version = alias, version
        call.account = self._account(alias, version)
        call.account.in_flight += 1
        self.last_asked = time.monotonic()

    def leave(self, call: Call) -> None:
        """A call goes on elsewhere: no version of this process answers it any more."""
        self._leave(call)
        call.version = ""

    def heard(self, call: Call, *, token: bool = False) -> None:
        """The engine sent bytes of a call's answer; `token` when they hold text of a stream."""
        if call.account is None:
            return  # another replica's engine
        now = self.last_byte = time.monotonic()
        if call.first_byte is None:
            call.first_byte = now
        if token:
            if call.last_token is None:
                call.account.first_token.add(now - call.started)
            else:
                call.account.token_gap.add(now - call.last_token)
            call.last_token = now

    def cancel(self, version: str) -> int:
        """End what is still in flight of a version, as failed; how many requests were not told before."""
        calls = [call for call in self._open if call.version == version and call.deadline.when() is None]
        for call in calls:
            call.deadline.reschedule(asyncio.get_running_loop().time())
        return len(calls)

    def keep(self, listed: Iterable[tuple[str, str]]) -> None:
        """Open an account for each listed name and version; drop those that left some time ago."""
        pairs = set(listed)
        for alias, version in pairs:
            self._account(alias, version).left = None
        known = pairs | {(alias, "") for alias, _ in pairs} | {("", "")}
        now = time.monotonic()
        for pair in self.accounts.keys() - known:
            account = self.accounts[pair]
            account.left = now if account.left is None or account.in_flight else account.left
            if now - account.left > KEEP_SECONDS:
                self._drop(*pair)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    async def asked(self) -> None:
        """Wait until something is in flight."""
        await self._busy.wait()

    def _account(self, alias: str, version: str) -> Account:
        account = self.accounts.get((alias, version))
        if account is None:
            account = self.accounts[alias, version] = self._of_version[version][alias] = Account()
        return account

    def _drop(self, alias: str, version: str) -> None:
        del self.accounts[alias, version], self._of_version[version][alias]
        if not self._of_version[version]:
            del self._of_version[version]

    def _leave(self, call: Call) -> None:
        if call.account is not None:
            call.account.in_flight -= 1
            call.account = None

    def _count(self, call: Call) -> None:
        account = self._account(call.alias, call.version)
        if call.shadow:
            account.shadows[call.status] += 1
            return
        account.codes[call.status] += 1
        account.failures += call.failed or call.status >= 500
        self._count_key(call)
        if call.version and (call.failed or call.status != CLIENT_LEFT):
            _count_answer(account, call)

    def _count_key(self, call: Call) -> None:
        if call.key:
            self.by_key[call.key, call.status] += 1
            self.tokens_by_key[call.key] += call.spent


def _count_answer(account: Account, call: Call) -> None:
    ended = time.monotonic()
    account.duration.add(ended - call.started)
    account.first_byte_seconds += (call.first_byte or ended) - call.started
    account.stream_errors += call.stream_error
    account.empty += call.status == 200 and not call.text and not call.failed
    account.cut += call.cut
    account.prompt_tokens += call.prompt_tokens
    account.generated_tokens += call.generated_tokens
