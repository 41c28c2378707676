"""Rules about the order of turns in a canonical row (data rules 11 and 12)."""

from itertools import pairwise

from finetune_trainer.data.formats import Row
from finetune_trainer.data.rowrule import RowRule
from finetune_trainer.data.spellings import Message


def _unanswered(row: Row) -> str | None:
    if not row.messages or (last := row.messages[-1]["role"]) == "assistant":
        return None
    return f"the last message is the {last}'s and would not be trained"


def _disordered(row: Row) -> str | None:
    if row.messages and row.messages[0]["role"] in ("assistant", "tool"):
        return f"it begins with a message of the {row.messages[0]['role']}"
    for position, (before, turn) in enumerate(pairwise(row.messages), start=2):
        if problem := _wrong_successor(before, turn):
            return f"message {position} {problem}"
    return None


def _wrong_successor(before: Message, turn: Message) -> str | None:
    role = turn["role"]
    if role == "system":
        return "is the system's and not the first"
    if role == "tool":
        answers = before["role"] == "tool" or before.get("tool_calls")
        return None if answers else "is a tool's, but no call of a tool stands before it"
    if before.get("tool_calls") and turn.get("tool_calls"):
        return "calls a tool right after another call; write both calls into the `tool_calls` of one message"
    if role == before["role"]:
        return f"is the second of the {role}'s in a row"
    return None


RULES: tuple[RowRule[Row], ...] = (
    RowRule(11, "last_turn_not_assistant", _unanswered, "end with an answer", about=("train",)),
    RowRule(
        12, "role_order", _disordered, "let user and assistant take turns, after at most one system message"
    ),
)
