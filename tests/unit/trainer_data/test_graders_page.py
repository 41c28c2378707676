"""docs/graders.md names every type of grader, and its examples work."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from finetune_trainer.contracts import GraderSpec, GraderType
from finetune_trainer.grading import grade, settings_problem

PAGE = (Path(__file__).parents[3] / "docs" / "graders.md").read_text()
BLOCKS = {
    kind: re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for kind in ("yaml", "python")
}


def test_every_type_is_in_the_table() -> None:
    named = " ".join(re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE))
    assert [kind for kind in get_args(GraderType) if kind not in named] == []


def test_the_examples_are_graders_that_work() -> None:
    graders = [
        GraderSpec.model_validate(spec) for spec in yaml.safe_load(BLOCKS["yaml"][0])["evaluation"]["graders"]
    ]
    paths = [spec for spec in graders if any(field.startswith("$") for field in spec.fields or ())]
    assert [settings_problem(spec) for spec in graders if spec not in paths] == [None] * (
        len(graders) - len(paths)
    )


def test_the_class_of_the_example_grades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "house_style").mkdir()
    (tmp_path / "house_style" / "graders.py").write_text(BLOCKS["python"][0])
    monkeypatch.syspath_prepend(str(tmp_path))
    [example] = yaml.safe_load(BLOCKS["yaml"][1])["graders"]
    spec = GraderSpec.model_validate(example)
    assert grade(spec, "Hello, you", "").score == 1.0
    assert grade(spec, "You there", "").reason == "no greeting"
