"""Reasoning inside an answer's text: `<think>`, the reasoning, `</think>`, and then what the reader gets.

One rule for what is trained and what is graded. An engine without a reasoning parser answers with the block
as the model wrote it; what an engine profile with one takes apart is put together again.
"""

OPEN = "<think>"
CLOSE = "</think>"
# How R1 and its kin go on after the reasoning; also how an empty block is skipped.
AFTER = f"\n{CLOSE}\n\n"


def split_reasoning(text: str, *, opened: bool = False) -> tuple[str, str]:
    """The reasoning ("" without any) and the rest of what an assistant wrote.

    `opened` says that the prompt already holds the opening tag. Reasoning that was cut off has no rest.
    """
    before, closed, after = text.rpartition(CLOSE)
    if closed and (opened or OPEN in before or not before.strip()):
        return before.strip().removeprefix(OPEN).strip(), after.lstrip("\n")
    if opened or text.lstrip().startswith(OPEN):
        return text.strip().removeprefix(OPEN).strip(), ""
    return "", text


def with_reasoning(reasoning: str | None, rest: str) -> str:
    """What an assistant wrote, of an engine that told its reasoning apart (None: it told none)."""
    if reasoning is None:
        return rest
    return f"{OPEN}\n{reasoning.strip()}{AFTER}{rest}" if rest else f"{OPEN}\n{reasoning.strip()}"


def opens(prompt: str) -> bool:
    """Whether a prompt ends inside a reasoning block."""
    return prompt.rstrip().endswith(OPEN)
