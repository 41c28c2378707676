"""A base model's chat template: prompts as the engine renders them, and what has to be written after one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os.path import commonprefix
from typing import Any

from finetune_trainer.chat.messages import answered, reasoning_of, served, served_tools
from finetune_trainer.chat.parts import in_parts, takes_parts
from finetune_trainer.chat.reasoning import AFTER, CLOSE, OPEN, opens, split_reasoning
from finetune_trainer.data.spellings import Message

Tools = Sequence[dict[str, Any]]
_ASKED: Message = {"role": "user", "content": "A question"}
_ANSWERED: Message = {"role": "assistant", "content": "An answer"}
_WORD = "vqzkh"  # in no template
_CALLED: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdefgh0", "type": "function", "function": {"name": "look_up", "arguments": {"word": _WORD}}}
    ],
}
_RETURNED: Message = {"role": "tool", "tool_call_id": "abcdefgh0", "name": "look_up", "content": "a house"}


class TemplateError(ValueError):
    """The template's prompt and its finished conversation cannot be brought together."""


@dataclass(frozen=True)
class Written:
    """What the engine sees before an answer, and what the model has to write, its end token included."""

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """Both."""
        return self.prompt + self.answer


class ChatTemplate:
    """The template of a tokenizer with the values that all its renderings pass (`kwargs`).

    `stops` are the texts of the tokens that end an answer.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], kwargs: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self.kwargs = dict(kwargs)

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template takes from outside; the engine passes no others to it."""
        # What transformers itself asks, with the extensions of its environment.
        from transformers.utils.chat_template_utils import _get_template_variables

        template = self._tokenizer.get_chat_template()
        return frozenset(_get_template_variables(template)) - {"messages", "tools", "add_generation_prompt"}

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the engine hands it the content of messages as lists of parts."""
        # Parsed in transformers' environment, whose extensions a template may use.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = self._tokenizer.get_chat_template()
        return takes_parts(_compile_jinja_template(template).environment.parse(template))

    @cached_property
    def refuses_objects(self) -> bool:
        """Whether it refuses calls whose arguments are an object, which is how the engine gives them."""
        if not self._raises([_ASKED, _CALLED, _RETURNED], text_arguments=False):
            return False
        return not self._raises([_ASKED, _CALLED, _RETURNED], text_arguments=True)

    @cached_property
    def text_arguments(self) -> bool:
        """Whether it writes a call rightly only when the arguments are JSON text."""
        try:
            written = self._finished([_ASKED, _CALLED], text_arguments=False)
        except Exception:  # a template may raise anything
            return self.refuses_objects
        return str({"word": _WORD}) in written  # an object joined as text is Python, no JSON

    @cached_property
    def writes_reasoning(self) -> bool:
        """Whether it writes `reasoning_content` of the last answer."""
        try:
            return _WORD in self._finished([_ASKED, {**_ANSWERED, "reasoning_content": _WORD}])
        except Exception:  # a template may raise anything
            return False

    def render(self, messages: Sequence[Message], *, ask: bool, tools: Tools = ()) -> str:
        """The text of a conversation as the engine renders it; with `ask` it ends where the model answers."""
        return self._apply([served(self._separated(message)) for message in messages], tools, ask)

    def probe(self, messages: Sequence[Message], /, **values: Any) -> str | None:
        """A prompt with other values for the template's names; None where the template refuses it."""
        try:
            return self._apply([served(message) for message in messages], (), ask=True, **values)
        except Exception:  # a template may raise anything
            return None

    def written(self, messages: Sequence[Message], tools: Tools = ()) -> Written:
        """What the model sees before the last message, and what it has to write there.

        TemplateError when the template writes the answer in another place than its own prompt asks for it.
        """
        *before, answer = [self._separated(message) for message in messages]
        history = [served(message, text_arguments=self.refuses_objects) for message in before]
        prompt = self._apply(history, tools, ask=True)
        finished = [*history, answered(answer, text_arguments=self.text_arguments)]
        text = _after(prompt, self._apply(finished, tools, ask=False), answer)
        return Written(prompt, self._until_stop(text, bool(answer.get("tool_calls"))))

    def end_of_turn(self) -> str:
        """What it writes after an answer, without white space; "" when it cannot be told."""
        try:
            _, found, end = self._finished([_ASKED, _ANSWERED]).rpartition(str(_ANSWERED["content"]))
        except Exception:  # a template may raise anything; rule 17 shows it with the rows
            return ""
        return end.strip() if found else ""

    def _apply(self, messages: list[dict[str, Any]], tools: Tools, ask: bool, **values: Any) -> str:
        text = self._tokenizer.apply_chat_template(
            [in_parts(message) for message in messages] if self.takes_parts else messages,
            tools=served_tools(tools) or None,
            tokenize=False,
            add_generation_prompt=ask,
            **(self.kwargs | values),
        )
        return str(text)

    def _finished(self, messages: Sequence[Message], *, text_arguments: bool = False) -> str:
        given = [answered(message, text_arguments=text_arguments) for message in messages]
        return self._apply(given, (), ask=False)

    def _raises(self, messages: Sequence[Message], *, text_arguments: bool) -> bool:
        try:
            self._finished(messages, text_arguments=text_arguments)
        except Exception:  # a template may raise anything
            return True
        return False

    def _separated(self, message: Message) -> Message:
        """A message whose reasoning stands apart from its content, for templates that write it themselves."""
        content = message.get("content")
        apart = message["role"] == "assistant" and isinstance(content, str) and CLOSE in content
        if not apart or message.get("reasoning_content") or not self.writes_reasoning:
            return message
        reasoning, rest = split_reasoning(str(content))
        return {**message, "reasoning_content": reasoning, "content": rest} if reasoning else message

    def _until_stop(self, text: str, call: bool) -> str:
        """An answer up to its first end token; a turn that only the next one ends gets that token."""
        if end := _first_end(text, self._stops):
            return text[:end]
        following = self._following_a_call if call else self._following_an_answer
        return text + following

    @cached_property
    def _following_an_answer(self) -> str:
        return self._following([_ASKED, _ANSWERED], _ASKED)

    @cached_property
    def _following_a_call(self) -> str:
        return self._following([_ASKED, _CALLED], _RETURNED)

    def _following(self, messages: list[Message], further: Message) -> str:
        """The end token with which the next turn begins; "" when it begins with none."""
        try:
            text = self._finished(messages, text_arguments=self.text_arguments)
            more = self._finished([*messages, further], text_arguments=self.text_arguments)
        except Exception:  # a template may raise anything
            return ""
        next_turn = more.removeprefix(text).lstrip() if more.startswith(text) else ""
        return next((stop for stop in self._stops if next_turn.startswith(stop)), "")


def _after(prompt: str, finished: str, answer: Message) -> str:
    """What stands in a finished conversation after the prompt for its last answer."""
    if finished.startswith(prompt):
        return finished[len(prompt) :]
    # The prompt ends in (part of) a reasoning block that the template leaves out of finished turns.
    head, opening, tail = prompt.rpartition(OPEN)
    if not opening or tail.strip() not in ("", CLOSE) or not finished.startswith(head):
        place = len(commonprefix([prompt, finished]))
        raise TemplateError(
            f"the template asks for the answer after {prompt[place:][:60]!r} and writes it after "
            f"{finished[place:][:60]!r}, so what is trained would not be what is asked"
        )
    in_text, rest = split_reasoning(finished[len(head) :])
    if not opens(prompt):
        return rest
    reasoning = reasoning_of(answer) or in_text
    return f"{reasoning.strip()}{AFTER}{rest.lstrip()}"


def _first_end(text: str, stops: Sequence[str]) -> int:
    """Where the first end token in a text ends; 0 without any."""
    places = [(place, len(stop)) for stop in stops if (place := text.find(stop)) >= 0]
    return sum(min(places)) if places else 0
