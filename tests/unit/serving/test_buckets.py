"""A base in a bucket: s3:// against a real S3 server, gs:// against a stand-in of Google's JSON interface."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_serving import buckets
from finetune_serving.fetch_base import MARKER, Base, fetch_base
from finetune_serving.fingerprint import base_fingerprint
from tests.google_storage import google_storage
from tests.s3_server import ACCESS_KEY, REGION, SECRET_KEY, refusing, serving
from tests.unit.serving.conftest import tiny_weights

pytestmark = pytest.mark.slow  # builds the server once, and the client library tries again for seconds
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model-1.safetensors": tiny_weights("a", 4)}
OTHERS = {"pytorch_model.bin": b"pickle", "consolidated.safetensors": b"copy", "old/config.json": b"{}"}


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder whose folders are buckets, and the address of its server."""
    root = tmp_path_factory.mktemp("s3")
    (root / "models").mkdir()
    with serving(root) as server:
        yield root, server


@pytest.fixture
def folder(address: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The objects of s3://models/team/base, with the right keys mounted."""
    root, server = address
    for name, content in {**FILES, **OTHERS}.items():
        file = root / "models" / "team" / "base" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "accessKeyId").write_text(f"{ACCESS_KEY}\n")
    (tmp_path / "secret" / "secretAccessKey").write_text(f"{SECRET_KEY}\n")
    monkeypatch.setattr("finetune_serving.fetch_base.configure", lambda: None)  # pytest reads the log
    monkeypatch.setenv("FT_S3_ENDPOINT", server)
    monkeypatch.setenv("FT_S3_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield root / "models" / "team" / "base"
    shutil.rmtree(root / "models" / "team")


@pytest.fixture
def fingerprint(tmp_path: Path) -> str:
    local = tmp_path / "local"
    local.mkdir()
    for name, content in FILES.items():
        (local / name).write_bytes(content)
    return base_fingerprint(local)


def fetched(tmp_path: Path, fingerprint: str, source: str = "s3://models/team/base") -> int:
    return fetch_base(Base(source, None, fingerprint), tmp_path / "base", tmp_path / "secret")


def names(tmp_path: Path) -> set[str]:
    return {file.name for file in (tmp_path / "base").iterdir()}


@pytest.mark.parametrize("source", ["s3://models/team/base", "s3://models/team/base/"])
def test_a_base_is_copied_without_pickles_copies_and_folders(
    folder: Path, tmp_path: Path, fingerprint: str, source: str
) -> None:
    assert fetched(tmp_path, fingerprint, source) == 0
    assert names(tmp_path) == {*FILES, MARKER}
    assert all((tmp_path / "base" / name).read_bytes() == content for name, content in FILES.items())


def test_a_complete_copy_needs_no_bucket_any_more(
    folder: Path, tmp_path: Path, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetched(tmp_path, fingerprint) == 0
    monkeypatch.setenv("FT_S3_ENDPOINT", "http://127.0.0.1:1")
    assert fetched(tmp_path, fingerprint) == 0


def test_what_was_cut_goes_on_with_the_files_that_are_not_whole(
    folder: Path, tmp_path: Path, fingerprint: str
) -> None:
    assert fetched(tmp_path, fingerprint) == 0
    base = tmp_path / "base"
    kept = (base / "config.json").stat().st_ino
    (base / MARKER).unlink()
    (base / "model-1.safetensors").rename(base / ".model-1.safetensors.partial")
    (base / ".tokenizer.json.partial").write_bytes(b"{")
    assert fetched(tmp_path, fingerprint) == 0
    assert names(tmp_path) == {*FILES, MARKER}
    assert (base / "config.json").stat().st_ino == kept


def test_an_object_that_was_replaced_is_copied_again_and_one_that_left_goes(
    folder: Path, tmp_path: Path, fingerprint: str
) -> None:
    (folder / "extra.json").write_bytes(b"{}")
    (folder / "config.json").write_bytes(b"[]")
    os.utime(folder / "config.json", (1, 1))
    assert fetched(tmp_path, fingerprint) == 1
    assert "extra.json" in names(tmp_path)
    (folder / "extra.json").unlink()
    (folder / "config.json").write_bytes(FILES["config.json"])
    assert fetched(tmp_path, fingerprint) == 0
    assert names(tmp_path) == {*FILES, MARKER}


def test_another_model_than_the_pinned_one_is_not_served(
    folder: Path, tmp_path: Path, fingerprint: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = "sha256:" + "0" * 64
    assert fetched(tmp_path, asked) == 1
    assert fingerprint in caplog.text
    assert asked in caplog.text
    assert MARKER not in names(tmp_path)


def test_a_base_in_googles_storage_is_copied_too(
    tmp_path: Path, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = {f"team/base/{name}": content for name, content in {**FILES, **OTHERS}.items()}
    with google_storage(objects) as address:
        monkeypatch.setenv("FT_GS_ENDPOINT", address)
        assert fetched(tmp_path, fingerprint, "gs://data/team/base") == 0
    assert names(tmp_path) == {*FILES, MARKER}


WRONG = [
    pytest.param("s3://models/team/nothing", {}, "does not exist", id="no such prefix"),
    pytest.param("s3://nowhere/team/base", {}, "there is no such bucket", id="no such bucket"),
    pytest.param(
        "s3://models/team/base/old", {}, "no *.safetensors file; it holds config.json", id="no weights"
    ),
    pytest.param("s3://models/team/base", {"secretAccessKey": "wrong"}, "refuses access", id="a wrong key"),
    pytest.param(
        "s3://models/team/base", {"accessKeyId": "", "secretAccessKey": ""}, "refuses access", id="no key"
    ),
]


@pytest.mark.parametrize(("source", "keys", "text"), WRONG)
def test_what_is_wrong_is_said_in_one_line(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    source: str,
    keys: dict[str, str],
    text: str,
) -> None:
    for key, value in keys.items():
        (tmp_path / "secret" / key).write_text(value)
    assert fetched(tmp_path, "sha256:" + "0" * 64, source) == 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message.startswith(source)
    assert text in record.message


@pytest.mark.parametrize(
    ("code", "status", "text"),
    [
        pytest.param("ExpiredToken", 400, "refuses the session token (ExpiredToken)", id="an expired token"),
        pytest.param("InvalidToken", 400, "refuses the session token (InvalidToken)", id="a malformed token"),
        pytest.param("AuthorizationHeaderMalformed", 400, "another region", id="another region"),
        pytest.param("PermanentRedirect", 301, "another region", id="a bucket that is elsewhere"),
        pytest.param("InvalidArgument", 400, "cannot be read now", id="an error that says neither"),
    ],
)
def test_an_old_token_and_a_wrong_region_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, status: int, text: str
) -> None:
    (tmp_path / "secret").mkdir()
    for key in ("accessKeyId", "secretAccessKey", "sessionToken"):
        (tmp_path / "secret" / key).write_text("temporary")
    monkeypatch.setenv("FT_S3_REGION", REGION)
    with refusing(code, status) as address:
        monkeypatch.setenv("FT_S3_ENDPOINT", address)
        with pytest.raises(buckets.BucketError) as caught:
            buckets.copy_folder("s3://models/base", tmp_path / "base", tmp_path / "secret", bool)
    assert text in str(caught.value)


def test_a_store_that_is_away_and_a_full_disk_are_told_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "_copy", full)
        assert fetched(tmp_path, "sha256:" + "0" * 64) == 1
    assert "cannot write to" in caplog.text
    monkeypatch.setenv("FT_S3_ENDPOINT", "http://127.0.0.1:1")
    assert fetched(tmp_path, "sha256:" + "0" * 64) == 1
    assert "cannot be read now" in caplog.text


@pytest.mark.parametrize(
    "base",
    [
        pytest.param(Base("hf://org/name"), id="the Hub without a commit"),
        pytest.param(Base("s3://models/team/base"), id="a bucket without a fingerprint"),
        pytest.param(Base("https://host/model", "a" * 40), id="another scheme"),
    ],
)
def test_what_is_not_pinned_is_refused(base: Base, tmp_path: Path) -> None:
    assert fetch_base(base, tmp_path / "base", tmp_path / "secret") == 1
    assert not (tmp_path / "base").exists()
