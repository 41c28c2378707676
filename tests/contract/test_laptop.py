"""The trainer as a package for machines without torch: trainer_image/pyproject.toml."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

IMAGE = Path(__file__).parents[2] / "trainer_image"


def test_the_package_takes_the_versions_of_the_image() -> None:
    project = tomllib.loads((IMAGE / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"^([a-z0-9-]+==[^ ]+)", (IMAGE / "requirements.lock").read_text(), re.MULTILINE))
    assert set(project["dependencies"]) <= locked


@pytest.mark.slow
def test_the_package_checks_rows_in_an_environment_of_its_own(tmp_path: Path) -> None:
    uv, python = Path(sys.executable).parent / "uv", tmp_path / "venv/bin/python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, IMAGE], check=True)
    rows = "".join(json.dumps({"prompt": f"q {n}", "completion": f"a {n}"}) + "\n" for n in range(120))
    (tmp_path / "rows.jsonl").write_text(rows)
    ended = subprocess.run(
        [tmp_path / "venv/bin/finetune-trainer", "check", "rows.jsonl", "--output", "json"],
        cwd=tmp_path, capture_output=True, text=True, env={"HOME": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["rows"] == 120
    (tmp_path / "scores.jsonl").write_text('{"id": 1, "score": 1}\n')
    compare = ["compare", "--base", "scores.jsonl", "--tuned", "scores.jsonl", "--output", "json"]
    judged = subprocess.run(
        [tmp_path / "venv/bin/finetune-trainer", *compare], cwd=tmp_path, capture_output=True, text=True
    )
    assert (judged.returncode, json.loads(judged.stdout)["verdict"]) == (1, "NoClearImprovement")
    # What `prepare` needs beyond `check` is imported when it is called.
    subprocess.run([python, "-c", "import finetune_trainer.stages.prepare"], check=True)
