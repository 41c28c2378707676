"""The tiny base of each family, made once, and its runs, shared by all tests that look at them."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.families.families import FAMILIES, Family

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a pod would have mounted, and a group of one process."""
    root = tmp_path_factory.mktemp("families")
    (root / "destination" / "adapters").mkdir(parents=True)
    with socket.socket() as probe, pytest.MonkeyPatch.context() as patch:
        probe.bind(("127.0.0.1", 0))
        patch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1), ("FT_PROGRESS_PORT", 0)):
            patch.setenv(name, str(value))
        patch.setenv("FT_SOURCES_ROOT", str(root / "sources"))
        patch.setenv("FT_DESTINATION_ROOT", str(root / "destination"))
        probe.close()
        yield root


@pytest.fixture(scope="session", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """Each family in turn; pytest runs all tests of one before the next."""
    found: Family = request.param
    return found


@pytest.fixture(scope="session")
def base(family: Family, volumes: Path) -> Path:
    """The family's base on a mounted volume; tests must not write to it."""
    from tests.families.tiny import build

    folder = Path(os.environ["FT_SOURCES_ROOT"]) / "pvc" / "bases" / family.name
    folder.mkdir(parents=True, exist_ok=True)
    return build(family, folder)
