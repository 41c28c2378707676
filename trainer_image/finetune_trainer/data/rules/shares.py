"""What share of the rows has a system and a user message (data rules 13 and 14), and reasoning."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from finetune_trainer.chat.messages import reasoning_of
from finetune_trainer.data.findings import SHOWN_ROWS, Finding, present
from finetune_trainer.data.formats import Row, trained
from finetune_trainer.data.rowrule import Tally

_MIXED = 0.05  # from this share on, rows with and rows without are two data sets
_PROMPTS = 1000  # distinct system prompts that are told apart, in bounded memory


@dataclass(frozen=True)
class Shares:
    """Of `rows` with messages: those that lack a role, and digests of the distinct system prompts.

    `reasoned` is how many have a trained answer with reasoning.
    """

    rows: int = 0
    lacking_system: Tally = field(default_factory=Tally)
    lacking_user: Tally = field(default_factory=Tally)
    prompts: frozenset[bytes] = frozenset()
    reasoned: int = 0

    def __add__(self, later: "Shares") -> "Shares":
        """Both, `later` being about rows that come after."""
        return Shares(
            self.rows + later.rows,
            self.lacking_system + later.lacking_system,
            self.lacking_user + later.lacking_user,
            _bounded(self.prompts | later.prompts),
            self.reasoned + later.reasoned,
        )

    def findings(self) -> list[Finding]:
        """Rules 13 and 14."""
        some_system = self.lacking_system.count < self.rows
        lacking_system = _lacking("system", self.lacking_system, self.rows) if some_system else None
        return present([lacking_system, _lacking("user", self.lacking_user, self.rows), self._varies()])

    def _varies(self) -> Finding | None:
        count = len(self.prompts)
        if count < 2:
            return None
        many = f"more than {_PROMPTS}" if count > _PROMPTS else str(count)
        text = f"There are {many} different system prompts; serve with one of those that were trained."
        return Finding(14, "system_prompt_varies", "info", count, (), text)


def shares(rows: Iterable[Row]) -> Shares:
    """The counts of canonical rows, in their order; rows of the text format have no roles."""
    chats = [row for row in rows if row.messages]
    roles = [(row.number, {turn["role"] for turn in row.messages}) for row in chats]
    texts = {t["content"] for row in chats for t in row.messages if t["role"] == "system"}
    return Shares(
        len(chats),
        _tally([number for number, present_roles in roles if "system" not in present_roles]),
        _tally([number for number, present_roles in roles if "user" not in present_roles]),
        _bounded(
            frozenset(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts)
        ),
        sum(any(trained(turn) and reasoning_of(turn) for turn in row.messages) for row in chats),
    )


def _lacking(role: str, tally: Tally, rows: int) -> Finding | None:
    if not tally.count:
        return None
    share = tally.count / rows
    mixed = _MIXED < share < 1 - _MIXED
    rest = "that the others have" if share < 1 else "at all"
    text = f"{share:.1%} of the rows lack the {role} message {rest}; give it to all rows or to none."
    if role == "user":
        text = f"{share:.1%} of the rows have no user message; add what the assistant answers to."
    return Finding(13, f"missing_{role}", "error" if mixed else "warning", tally.count, tally.rows, text)


def _tally(numbers: list[int]) -> Tally:
    return Tally(len(numbers), tuple(numbers[:SHOWN_ROWS]))


def _bounded(digests: frozenset[bytes]) -> frozenset[bytes]:
    """One more than are told apart. The smallest are kept, so the order of adding does not matter."""
    return digests if len(digests) <= _PROMPTS + 1 else frozenset(sorted(digests)[: _PROMPTS + 1])
