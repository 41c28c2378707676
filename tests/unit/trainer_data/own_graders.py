"""Graders of a user's own, as test_hostile_grading.py names them."""

import time
from pathlib import Path


class Length:
    """Half marks for an output that is as long as the reference."""

    def grade(self, output: str, reference: str) -> tuple[float, str]:
        """A score and a reason."""
        return (0.5, "as long") if len(output) == len(reference) else (0.0, "another length")


class Raises:
    """A defect."""

    def grade(self, output: str, reference: str) -> tuple[float, str]:
        """Nothing."""
        raise RuntimeError(output)


class Exits:
    """Ends the process, if it may."""

    def grade(self, output: str, reference: str) -> tuple[float, str]:
        """Nothing."""
        raise SystemExit(3)


class Leaves:
    """Ends the process when it is made."""

    def __init__(self) -> None:
        raise SystemExit("no licence")


class Says:
    """Returns what the output says, which is no grade."""

    def grade(self, output: str, reference: str) -> object:
        """Whatever."""
        return {"number": 0.5, "list": [1, 2, 3], "two": (2, "too much"), "nan": (float("nan"), "none"),
                "yes": (True, "a truth"), "none": (None, "cannot tell")}[output]  # fmt: skip


class Sleeps:
    """Takes for ever."""

    def grade(self, output: str, reference: str) -> tuple[float, str]:
        """Nothing."""
        time.sleep(3600)
        return 1.0, ""


class NeedsAFile:
    """Cannot be made."""

    def __init__(self) -> None:
        Path("/nothing/here").stat()
