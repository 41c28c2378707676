"""What every shipped Dockerfile promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev.images.recipes import ROOT

SHIPPED = {
    "operator": "finetune_operator",
    "trainer_image": "finetune_trainer",
    "serving_image": "finetune_serving",
}


@pytest.fixture(params=SHIPPED, ids=SHIPPED.keys())
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_default_base_is_the_official_image(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    assert "ARG BASE=docker.io/library/python:3.11-slim-bookworm\n" in text


def test_it_runs_the_package_as_a_user_without_rights(folder: str) -> None:
    lines = (ROOT / folder / "Dockerfile").read_text().splitlines()
    assert lines[-2:] == ["USER 10001:10001", f'ENTRYPOINT ["python", "-m", "{SHIPPED[folder]}"]']


def test_a_module_in_the_working_directory_is_not_run(folder: str, tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit('planted')\n")
    lines = (ROOT / folder / "Dockerfile").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("ENV ") and "PYTHONPATH=" in line)
    variables = dict(entry.split("=", 1) for entry in line.removeprefix("ENV ").split())
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT / folder)}
    command = [sys.executable, "-m", SHIPPED[folder], "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_package_is_checked_against_its_hash(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    for install in re.findall(r"pip install .*?(?: -r |$)", text.replace("\\\n", " "), re.DOTALL):
        assert "--require-hashes" in install
    for lock in (ROOT / folder).glob("requirements*.lock"):
        pinned = re.findall(
            r"^([A-Za-z0-9][^\s#]*==.*?)(?=^[A-Za-z0-9]|\Z)", lock.read_text(), re.MULTILINE | re.DOTALL
        )
        assert pinned
        assert all("--hash=sha256:" in entry for entry in pinned)


def test_locks_name_no_package_index(folder: str) -> None:
    for lock in [*(ROOT / folder).glob("requirements*.lock"), ROOT / "requirements-dev.lock"]:
        assert not re.search(r"index-url|find-links|://", lock.read_text())


def test_the_operator_carries_no_torch() -> None:
    lock = (ROOT / "operator" / "requirements.lock").read_text()
    assert not re.search(r"^(torch|transformers|vllm|nvidia)", lock, re.MULTILINE)


def test_trainer_and_cpu_serving_agree_on_every_shared_package() -> None:
    """One stack of layers holds both on the embedded cluster, and a disagreement would swap packages there."""

    def pins(path: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, version in re.findall(
            r"^([a-z0-9._-]+)==([^\s;\\]+)", (ROOT / path).read_text(), re.MULTILINE
        ):
            found.setdefault(name, set()).add(version)
        return found

    trainer, serving = pins("trainer_image/requirements.lock"), pins("serving_image/requirements-cpu.lock")
    assert {name for name in trainer.keys() & serving.keys() if trainer[name] != serving[name]} == set()
