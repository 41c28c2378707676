"""What the operator tells a stage by environment variables, beside the job file."""

from collections.abc import Mapping

from finetune_trainer.errors import UserError

_HANG_SECONDS = 1800


def number(environment: Mapping[str, str], name: str, default: int) -> int:
    """A whole number of at least 0; UserError for any other text."""
    text = environment.get(name, str(default))
    if not text.isdigit():
        raise UserError(f"{name} is {text!r}; it must be a number, which the operator sets.")
    return int(text)


def hang_seconds(environment: Mapping[str, str]) -> int:
    """FT_HANG_SECONDS: how long nothing may go on before a stage counts as hung (half an hour by default)."""
    return number(environment, "FT_HANG_SECONDS", _HANG_SECONDS)
