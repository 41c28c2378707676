"""The tiny base of each family, made once, and its runs, shared by all tests that look at them."""

from pathlib import Path

import pytest

from tests.families.families import FAMILIES, Family, with_engine
from tests.families.stages import Refused, Runs, Trained


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which families a run of the engine's tests tries on this day."""
    terminalreporter.write_line(f"families with an engine: {', '.join(f.name for f in with_engine())}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each family in turn, those with an engine where a test starts one."""
    if "family" in metafunc.fixturenames:
        chosen = with_engine() if "engine" in metafunc.fixturenames else FAMILIES
        # One group each, so that all tests of a family run in the worker that made its base and runs.
        values = [pytest.param(f, id=f.name, marks=pytest.mark.xdist_group(f.name)) for f in chosen]
        metafunc.parametrize("family", values, scope="session")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Where bases and runs are made."""
    return Runs(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="session")
def base(family: Family, runs: Runs) -> Path:
    """The family's base; tests must not write to it."""
    return runs.base(family)


@pytest.fixture(scope="session")
def lora(family: Family, runs: Runs) -> Trained | Refused:
    """The family's LoRA run."""
    return runs.run(family, "LoRA")


@pytest.fixture(scope="session")
def full(family: Family, runs: Runs) -> Trained | Refused:
    """The family's Full run."""
    return runs.run(family, "Full")
