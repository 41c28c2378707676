"""The rule about secrets and personal data (data rule 47); a clause names their kind and never themselves.

Every pattern is looked for only where a literal that it needs occurs, starts at few places and has bounded
or disjoint repetitions, so a row takes time linear in its length.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune_trainer.data.formats import Row
from finetune_trainer.data.rowrule import RowRule


@dataclass(frozen=True)
class _Kind:
    """A kind of secret: literals of which one occurs with it, its pattern, and a check of the match."""

    name: str
    literals: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = bool

    def occurs(self, text: str) -> bool:
        """Whether the text holds one."""
        if not any(literal in text for literal in self.literals):
            return False
        return any(self.check(match[0]) for match in self.pattern.finditer(text))


def luhn(text: str) -> bool:
    """Whether the digits have the check digit of payment cards (ISO/IEC 7812-1)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def iban(text: str) -> bool:
    """Whether an account number has the check digits of ISO 13616."""
    letters = text.replace(" ", "")
    return (
        15 <= len(letters) <= 34
        and int("".join(str(int(c, 36)) for c in letters[4:] + letters[:4])) % 97 == 1
    )


def _varied(text: str) -> bool:
    """A key is random: words joined by hyphens have no digits, placeholders repeat a letter."""
    return any(char.isdigit() for char in text) and len(set(text)) > 12


def _key(name: str, literals: tuple[str, ...], body: str, check: Callable[[str], bool] = bool) -> _Kind:
    """A key starts where no word goes on; it needs no end, as its length is what makes it one."""
    return _Kind(name, literals, re.compile(r"(?<![A-Za-z0-9_-])" + body), check)


_B64 = r"[A-Za-z0-9_-]{10,}"
_SECRETS = (
    _key("an AWS access key", ("AKIA", "ASIA"), r"A[KS]IA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _key("a GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36}"),
    _key("a GitHub token", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{60}"),
    _key("a GitLab token", ("glpat-",), r"glpat-[A-Za-z0-9_-]{20}"),
    _key("a Slack token", ("xox",), r"xox[abeprs]-[0-9A-Za-z-]{20}", _varied),
    _key("an API key", ("sk-",), r"sk-[A-Za-z0-9_-]{32}", _varied),
    _key("a Stripe key", ("k_live_",), r"[rs]k_live_[A-Za-z0-9]{24}"),
    _key("a Google API key", ("AIza",), r"AIza[A-Za-z0-9_-]{35}"),
    _key("a Hugging Face token", ("hf_",), r"hf_[A-Za-z0-9]{34}"),
    _key("a private key", ("PRIVATE KEY",), r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY"),
    _key("a JSON web token", ("eyJ",), rf"eyJ{_B64}\.eyJ{_B64}\.{_B64}"),
)
# The brands whose numbers are long and begin in a known way, in their usual groups of digits.
_CARD = re.compile(
    r"(?<![\w.-])(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}(?![\w-])"
    r"|(?<![\w.-])3[47]\d\d([ -]?)\d{6}\2\d{5}(?![\w-])"
)
_IBAN = re.compile(
    r"(?<!\w)[A-Z]{2}\d\d(?:(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?|[A-Z0-9]{11,30})(?!\w)",
)
_NUMBERS = (
    _Kind("a payment card number", ("",), _CARD, luhn),
    _Kind("a bank account number (IBAN)", ("",), _IBAN, iban),
)
_E_MAIL = re.compile(r"(?<=[A-Za-z0-9])@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,18}\b")
_TELEPHONE = re.compile(r"(?<![\w+])\+[1-9]\d{0,2}(?:[ -]?\(?\d{2,4}\)?){2,4}(?!\d)")
_CONTACTS = (
    _Kind("an e-mail address", ("@",), _E_MAIL),
    _Kind("a telephone number", ("+",), _TELEPHONE),
)
_DIGITS = re.compile(r"\d\d")


def _secret(row: Row) -> str | None:
    return _holds(row, lambda text: (*_SECRETS, *_NUMBERS) if _DIGITS.search(text) else _SECRETS)


def _contact(row: Row) -> str | None:
    return _holds(row, lambda _: _CONTACTS)


def _holds(row: Row, kinds: Callable[[str], tuple[_Kind, ...]]) -> str | None:
    for where, text in _texts(row):
        for kind in kinds(text):
            if kind.occurs(text):
                return f"{where} holds {kind.name}"
    return None


def _texts(row: Row) -> Iterator[tuple[str, str]]:
    if row.text is not None:
        yield "the text", row.text
    for position, turn in enumerate(row.messages, start=1):
        yield f"message {position}", turn["content"]
        for key in ("reasoning_content", "tool_calls"):
            if key in turn:
                yield f"message {position}", str(turn[key])


_REMOVE = "remove it, and change it if it is real: a model repeats what it learnt"
RULES: tuple[RowRule[Row], ...] = (
    RowRule(47, "secrets_pii", _secret, _REMOVE, "warning"),
    RowRule(47, "contact_data", _contact, "remove it if a person can be reached by it", "info"),
)
