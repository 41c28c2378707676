"""What code cites exists, and users read no requirement numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("operator", "trainer_image", "serving_image", "dev", "tests", "benchmarks")
NUMBER = re.compile(r"\bR(\d{1,2})\b(?:(?: to |-)R?(\d{1,2})\b)?")
PAGE = re.compile(r'docs/([\w-]+\.md)(?:(?:, |\s+)"([^"]+)")?')
WRITTEN = {"faults.md"}
"""What `python -m tests.faults.report` writes; absent until somebody has run it."""
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
SHIPPED = ("operator/finetune_operator", "trainer_image/finetune_trainer", "serving_image/finetune_serving")


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def cited(text: str) -> set[int]:
    """The numbers of R5, R5-R8 and R50 to R52."""
    return {n for first, last in NUMBER.findall(text) for n in range(int(first), int(last or first) + 1)}


def defined() -> set[int]:
    page = (ROOT / "docs" / "requirements.md").read_text()
    return {int(number) for number in re.findall(r"^\| R(\d+) \|", page, re.MULTILINE)}


def messages(path: Path) -> Iterator[str]:
    """The string literals of a module that are not docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Constant)
                and isinstance(child.value, str)
                and not isinstance(node, ast.Expr)
            ):
                yield child.value


def test_the_page_defines_every_requirement_once() -> None:
    page = (ROOT / "docs" / "requirements.md").read_text()
    assert [int(n) for n in re.findall(r"^\| R(\d+) \|", page, re.MULTILINE)] == list(range(1, 59))


def test_every_requirement_that_code_or_a_page_cites_is_defined() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    unknown = {str(path): cited(path.read_text()) - defined() for path in (*sources(), *pages)}
    assert {path: numbers for path, numbers in unknown.items() if numbers} == {}


def test_no_message_cites_a_requirement() -> None:
    shipped = [path for package in SHIPPED for path in sorted((ROOT / package).rglob("*.py"))]
    found = {str(p): [m for m in messages(p) if NUMBER.search(m)] for p in shipped}
    assert {path: said for path, said in found.items() if said} == {}


@pytest.mark.parametrize("folder", ["crds", "charts", "docs/api.md"])
def test_no_description_of_a_field_cites_a_requirement(folder: str) -> None:
    place = ROOT / folder
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    assert [str(path) for path in files if NUMBER.search(path.read_text())] == []


def test_every_page_and_section_that_code_cites_exists() -> None:
    missing = []
    others = (*(ROOT / "charts").rglob("*.tpl"), *(ROOT / "docs").glob("*.md"), ROOT / "pyproject.toml")
    for path in (*sources(), *others):
        for page, section in PAGE.findall(path.read_text()):
            found = ROOT / "docs" / page
            if page in WRITTEN:
                continue
            headings = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE) if found.exists() else []
            if not found.exists() or (section and not any(h.startswith(section) for h in headings)):
                missing.append(f"{path.relative_to(ROOT)}: {page} {section}")
    assert missing == []


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md")
    links = [(path, target) for path in pages for target in LINK.findall(path.read_text())]
    assert [f"{path.name}: {target}" for path, target in links if not (path.parent / target).exists()] == []
