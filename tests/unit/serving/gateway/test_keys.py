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
    assert (KeyRing(folder).name_of(header) is not None) is accepted


def test_without_a_folder_everybody_may_ask() -> None:
    assert KeyRing(None).name_of(None) == ""


def test_an_empty_folder_accepts_nobody(tmp_path: Path) -> None:
    assert KeyRing(tmp_path).name_of("Bearer ") is None


def test_a_swapped_secret_is_read_again(folder: Path) -> None:
    ring = KeyRing(folder)
    fresh = folder / "..2027"
    fresh.mkdir()
    (fresh / "team-a").write_text("rotated")
    (folder / "..tmp").symlink_to("..2027")
    (folder / "..tmp").replace(folder / "..data")
    ring.refresh()
    assert ring.name_of("Bearer rotated") == "team-a"
    assert ring.name_of("Bearer key-a") is None
    assert ring.name_of("Bearer key-b") is None


def test_whose_key_it_is(folder: Path) -> None:
    assert KeyRing(folder).name_of("Bearer key-a") == "team-a"
    assert KeyRing(folder).name_of(None, "key-b") == "team-b"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xff\xfe\x00k", id="bytes that are no text"),
        pytest.param("\ufeffkey".encode(), id="a byte order mark"),
        pytest.param(b"one two", id="two keys in one entry"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_unusable_entry_is_reported_once_and_harms_no_other(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "torn").write_bytes(content)
    ring = KeyRing(folder)
    ring.refresh()
    assert ring.name_of("Bearer key-a") == "team-a"
    assert list(ring.unusable) == ["torn"]
    assert "`torn`" in ring.problem
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("late", "owner", "other"),
    [
        pytest.param("team-c", "team-a", "team-c", id="an entry after the first by name"),
        pytest.param("team-0", "team-0", "team-a", id="an entry before the first by name"),
    ],
)
def test_one_key_under_two_names_is_the_firsts_and_the_other_is_reported(
    folder: Path, late: str, owner: str, other: str
) -> None:
    running = KeyRing(folder)
    (folder / late).write_text("key-a")
    running.refresh()
    for ring in (running, KeyRing(folder)):
        assert ring.name_of("Bearer key-a") == owner
        assert ring.unusable == {other: f"holds the key of `{owner}`"}


def test_a_removed_key_is_refused_although_another_entry_cannot_be_used(folder: Path) -> None:
    ring = KeyRing(folder)
    (folder / "torn").write_bytes(b"\xff\xfe\x00")
    (folder / "team-a").unlink()
    ring.refresh()
    assert ring.name_of("Bearer key-a") is None
    assert ring.name_of("Bearer key-b") == "team-b"


def test_an_entry_that_could_not_be_read_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        ring = KeyRing(folder)
    assert ring.name_of("Bearer key-a") is None
    assert "Input/output error" in ring.problem
    ring.refresh()
    assert ring.name_of("Bearer key-a") == "team-a"


@pytest.mark.parametrize("header", ["Bearer ключ", "Bearer \udcff\udcfe"], ids=ascii)
def test_a_header_that_is_no_ascii_is_a_wrong_key(folder: Path, header: str) -> None:
    assert KeyRing(folder).name_of(header) is None
