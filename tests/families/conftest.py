"""The tiny base of each family, made once, and its runs, shared by all tests that look at them."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.families.families import FAMILIES, Family, with_engine
from tests.families.stages import Refused, Runs, Trained


def pytest_report_header() -> str:
    """Which families this run tries with an engine."""
    return f"families with an engine: {', '.join(family.name for family in with_engine())}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each family in turn, those with an engine where a test starts one."""
    if "family" in metafunc.fixturenames:
        chosen = with_engine() if "engine" in metafunc.fixturenames else FAMILIES
        metafunc.parametrize("family", chosen, ids=lambda family: family.name, scope="session")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """What a pod would have mounted, and a group of one process."""
    root = tmp_path_factory.mktemp("families")
    (root / "destination" / "adapters").mkdir(parents=True)
    settings = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1,
        "FT_PROGRESS_PORT": 0, "FT_SOURCES_ROOT": root / "sources", "FT_DESTINATION_ROOT": root / "destination",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, str(value))
        yield Runs(root)


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
