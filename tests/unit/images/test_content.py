"""A tag changes exactly when something that reaches the image does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.images.content import digest
from dev.images.recipes import RECIPES, Recipe

INPUTS = ("requirements.lock", "package")


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE} AS deps\nRUN install\n\nFROM deps\nCOPY package /\n"
    )
    (tmp_path / "requirements.lock").write_text("a==1\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("print()\n")
    return tmp_path


def recipe(context: Path, target: str | None = None) -> Recipe:
    return Recipe("x", str(context), INPUTS, target=target)


def write_bytecode(context: Path) -> None:
    (context / "package" / "__pycache__").mkdir()
    (context / "package" / "__pycache__" / "module.pyc").write_bytes(b"x")


def rename(context: Path) -> None:
    (context / "package" / "module.py").rename(context / "package" / "other.py")


CHANGES = {
    "code": lambda c: (c / "package" / "module.py").write_text("print(1)\n"),
    "a new file": lambda c: (c / "package" / "new.py").write_text(""),
    "a renamed file": rename,
    "a file made executable": lambda c: (c / "package" / "module.py").chmod(0o755),
    "the requirements": lambda c: (c / "requirements.lock").write_text("a==2\n"),
    "the Dockerfile": lambda c: (c / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n"),
}
NO_CHANGES = {
    "compiled Python": write_bytecode,
    "a file that is not copied": lambda c: (c / "README.md").write_text("words"),
    "a file rewritten as it was": lambda c: (c / "requirements.lock").write_text("a==1\n"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_reaches_the_image_changes_the_tag(context: Path, change: object) -> None:
    before = recipe(context).tag("base")
    assert callable(change)
    change(context)
    assert recipe(context).tag("base") != before


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_what_does_not_reach_the_image_keeps_the_tag(context: Path, change: object) -> None:
    before = recipe(context).tag("base")
    assert callable(change)
    change(context)
    assert recipe(context).tag("base") == before


def test_another_base_is_another_image(context: Path) -> None:
    assert recipe(context).tag("base-a") != recipe(context).tag("base-b")


def test_later_stages_do_not_rebuild_the_dependencies(context: Path) -> None:
    before = recipe(context, "deps").tag("base")
    (context / "Dockerfile").write_text((context / "Dockerfile").read_text() + "ENV A=1\n")
    assert recipe(context, "deps").tag("base") == before
    (context / "Dockerfile").write_text("ARG BASE\nFROM ${BASE} AS deps\nRUN other\n\nFROM deps\n")
    assert recipe(context, "deps").tag("base") != before


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_equal_settings_and_only_those_give_equal_digests(first: list[str], second: list[str]) -> None:
    same = digest(Path(), (), first) == digest(Path(), (), second)
    assert same == (first == second)


def test_every_base_is_built_before_what_stands_on_it() -> None:
    known = {"standin"}
    for image in RECIPES:
        assert image.base in known
        known.add(image.name)


def test_dependencies_hold_no_code() -> None:
    for image in RECIPES:
        if image.target == "deps":
            assert not [name for name in image.inputs if (image.context / name).is_dir()]
