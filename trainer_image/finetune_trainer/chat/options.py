"""What every rendering passes to the chat template: decided once, in prepare.

Nothing here knows a family: a name is a switch or a date because renderings with other values differ.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Literal

from finetune_trainer.chat.reasoning import opens
from finetune_trainer.chat.template import ChatTemplate
from finetune_trainer.data.spellings import Message

# The names under which templates let reasoning be switched; one is used only if it changes the prompt.
_SWITCHES = ("enable_thinking", "thinking")
_OTHER_DAY = date(2001, 2, 3)

Thinking = Literal["on", "off", "empty", "mixed"]
Value = bool | str
Probe = Callable[..., str | None]


@dataclass(frozen=True)
class TemplateOptions:
    """`kwargs` for the template, and why.

    `thinking` is what the rows' answers do where the template knows reasoning: all write it (on), none does
    and it is switched off (off), none does but the prompt opens its block (empty), some do (mixed).
    `clock` says that prompts hold the day of their rendering.
    """

    kwargs: dict[str, Value] = field(default_factory=dict)
    thinking: Thinking | None = None
    clock: bool = False


def decide(
    template: ChatTemplate, example: Sequence[Message], rows: int, reasoned: int, today: date
) -> TemplateOptions:
    """The options for `rows` conversations of which `reasoned` have reasoning in a trained answer.

    `example` are the messages before an answer of one of them.
    """
    probe = partial(template.probe, example)
    switch = next((name for name in _SWITCHES if name in template.variables and _switches(probe, name)), None)
    kwargs: dict[str, Value] = {switch: reasoned > 0} if switch else {}
    day, clock = _day(probe, template.variables, today)
    opened = opens(probe(**kwargs) or "")
    return TemplateOptions(kwargs | day, _thinking(rows, reasoned, opened=opened, switch=bool(switch)), clock)


def _switches(probe: Probe, name: str) -> bool:
    on, off = probe(**{name: True}), probe(**{name: False})
    return on is not None and off is not None and on != off


def _thinking(rows: int, reasoned: int, *, opened: bool, switch: bool) -> Thinking | None:
    if reasoned:
        return "on" if reasoned == rows else "mixed"
    if opened:
        return "empty"
    return "off" if switch else None


def _day(probe: Probe, names: Iterable[str], today: date) -> tuple[dict[str, Value], bool]:
    """The variable that takes the day, set to today as the template writes it; or whether none does."""
    formats: list[str] = []

    def on(day: date) -> Callable[[str], str]:
        def strftime_now(form: str) -> str:
            formats.append(form)
            return day.strftime(form)

        return strftime_now

    now, other = (probe(strftime_now=on(day)) for day in (today, _OTHER_DAY))
    if now == other:
        return {}, False
    text = today.strftime(formats[0])
    for name in sorted(names):
        fixed = {probe(strftime_now=on(day), **{name: text}) for day in (today, _OTHER_DAY)}
        if fixed == {now}:
            return {name: text}, False
    return {}, True
