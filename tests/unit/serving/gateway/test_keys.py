"""API keys from a mounted Secret."""

from pathlib import Path

import pytest

from finetune_serving.gateway.keys import KeyRing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Secret volume as the kubelet lays it out: links through ..data."""
    data = tmp_path / "..2026"
    data.mkdir()
    (data / "team-a").write_text("key-a\n")
    (data / "team-b").write_text("key-b")
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("team-a", "team-b"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        pytest.param("Bearer key-a", True, id="the first key, its trailing newline ignored"),
        pytest.param("bearer key-b", True, id="the scheme is not case-sensitive"),
        pytest.param("Bearer key-c", False, id="another key"),
        pytest.param("Bearer ", False, id="an empty key"),
        pytest.param("key-a", False, id="no scheme"),
        pytest.param(None, False, id="no header"),
    ],
)
def test_accepts(folder: Path, header: str | None, accepted: bool) -> None:
    assert KeyRing(folder).accepts(header) is accepted


def test_without_a_folder_everybody_may_ask() -> None:
    assert KeyRing(None).accepts(None)


def test_an_empty_folder_accepts_nobody(tmp_path: Path) -> None:
    assert not KeyRing(tmp_path).accepts("Bearer ")


def test_a_swapped_secret_is_read_again(folder: Path) -> None:
    ring = KeyRing(folder)
    fresh = folder / "..2027"
    fresh.mkdir()
    (fresh / "team-a").write_text("rotated")
    (folder / "..tmp").symlink_to("..2027")
    (folder / "..tmp").replace(folder / "..data")
    ring.refresh()
    assert ring.accepts("Bearer rotated")
    assert not ring.accepts("Bearer key-a")
    assert not ring.accepts("Bearer key-b")
