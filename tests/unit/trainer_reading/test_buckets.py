"""s3:// against a real S3 server, gs:// against a stand-in of Google's JSON interface."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import SourceUnavailableError, UserError
from finetune_trainer.sources.fetch import locate
from finetune_trainer.sources.located import Located
from tests.google_storage import google_storage
from tests.s3_server import ACCESS_KEY, REGION, SECRET_KEY, refusing, serving

Fetch = Callable[[str], Located]
OBJECTS = {
    "rows/train.jsonl": b'{"a": 1}\n' * 100_000,
    "rows/part-2.csv": b"a\n1\n",
    "rows/old/train.jsonl": b"{}\n",
    "rows/_SUCCESS": b"",
    "top.jsonl": b"{}\n",
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server with the bucket `data`."""
    root = tmp_path_factory.mktemp("s3")
    for key, content in OBJECTS.items():
        path = root / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with serving(root) as address:
        yield address


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Mounts a Secret for the data set."""
    monkeypatch.setenv("FT_CREDENTIALS_ROOT", str(tmp_path / "credentials"))

    def mount(**keys: str) -> None:
        folder = tmp_path / "credentials" / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in keys.items():
            (folder / key).write_text(value + "\n")

    return mount


@pytest.fixture
def s3(server: str, secret: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fetch:
    """Fetches from the server with the right keys mounted."""
    monkeypatch.setenv("FT_S3_ENDPOINT", server)
    monkeypatch.setenv("FT_S3_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    secret(accessKeyId=ACCESS_KEY, secretAccessKey=SECRET_KEY)
    return lambda source: locate(DatasetSpec(source=source), tmp_path / "scratch", "train")


pytestmark = pytest.mark.slow  # builds the server once, and the client library tries again for seconds


def test_an_object_is_copied(s3: Fetch) -> None:
    (file,) = s3("s3://data/rows/train.jsonl").files
    assert (file.name, file.path.read_bytes()) == ("train.jsonl", OBJECTS["rows/train.jsonl"])


@pytest.mark.parametrize("source", ["s3://data/rows", "s3://data/rows/"])
def test_the_objects_directly_below_a_prefix_are_one_data_set(source: str, s3: Fetch) -> None:
    located = s3(source)
    assert [file.name for file in located.files] == ["part-2.csv", "train.jsonl"]
    assert located.unread == ("old/",)


def test_a_whole_bucket_is_a_data_set(s3: Fetch) -> None:
    assert [file.name for file in s3("s3://data").files] == ["top.jsonl"]


def test_objects_of_one_name_do_not_mix(s3: Fetch) -> None:
    train, holdout = s3("s3://data/rows/train.jsonl"), s3("s3://data/rows/old/train.jsonl")
    assert train.files[0].path.read_bytes() != holdout.files[0].path.read_bytes()


WRONG: list[tuple[str, str, str]] = [
    ("no such key", "s3://data/rows/tran.jsonl", "data/rows holds _SUCCESS, old/, part-2.csv, train.jsonl"),
    ("no such prefix", "s3://data/a/b/c", "does not exist; data holds rows/, top.jsonl"),
    ("no such bucket", "s3://nothing/a.jsonl", "there is no such bucket"),
    ("no bucket of that name", "s3://nothing", "there is no such bucket"),
    ("a path upwards", "s3://data/../other/a.jsonl", "is not understood; write s3://bucket/key"),
]


@pytest.mark.parametrize(("source", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_wrong_with_an_address_is_said(source: str, text: str, s3: Fetch) -> None:
    with pytest.raises(UserError) as caught:
        s3(source)
    assert str(caught.value).startswith(source)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "keys", [{"accessKeyId": "nobody"}, {"secretAccessKey": "wrong"}, {"accessKeyId": "", "secretAccessKey": ""}],
    ids=["unknown key", "wrong secret", "no key"],
)  # fmt: skip
@pytest.mark.parametrize("source", ["s3://data/rows", "s3://data/rows/train.jsonl"])
def test_wrong_credentials_are_named(source: str, keys: dict[str, str], s3: Fetch, secret: Any) -> None:
    secret(**keys)
    with pytest.raises(UserError, match=r"refuses access .*; check accessKeyId and secretAccessKey"):
        s3(source)


def test_a_wrong_region_is_the_administrators(s3: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_S3_REGION", "us-other-1")
    with pytest.raises(UserError, match="another region"):
        s3("s3://data/rows")


@pytest.mark.parametrize(
    ("head", "text"),
    [
        pytest.param(404, r"refuses the session token \(ExpiredToken\)", id="by the answer to a listing"),
        pytest.param(400, "expired or malformed, or it is a request to another region", id="by no reason"),
    ],
)
def test_an_old_token_is_named(
    head: int, text: str, secret: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret(accessKeyId="temporary", secretAccessKey="temporary", sessionToken="old")
    monkeypatch.setenv("FT_S3_REGION", REGION)
    with refusing("ExpiredToken", 400, head) as address:
        monkeypatch.setenv("FT_S3_ENDPOINT", address)
        with pytest.raises(UserError, match=text):
            locate(DatasetSpec(source="s3://data/rows"), tmp_path / "scratch", "train")


def test_a_server_that_is_away_is_tried_again(s3: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FT_S3_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        SourceUnavailableError, match=r"s3://data/rows cannot be read now \(NETWORK_CONNECTION\)"
    ):
        s3("s3://data/rows")


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch, secret: Any, tmp_path: Path) -> Iterator[Fetch]:
    """Fetches from the stand-in of Google."""
    with google_storage(OBJECTS) as address:
        monkeypatch.setenv("FT_GS_ENDPOINT", address)
        yield lambda source: locate(DatasetSpec(source=source), tmp_path / "scratch", "train")


def test_an_object_of_google_is_copied(gs: Fetch) -> None:
    (file,) = gs("gs://data/rows/train.jsonl").files
    assert (file.name, file.path.read_bytes()) == ("train.jsonl", OBJECTS["rows/train.jsonl"])


def test_a_prefix_of_google_is_one_data_set(gs: Fetch) -> None:
    located = gs("gs://data/rows")
    assert [file.name for file in located.files] == ["part-2.csv", "train.jsonl"]
    assert located.unread == ("old/",)


def test_a_missing_object_of_google_is_named(gs: Fetch) -> None:
    with pytest.raises(
        UserError, match=r"gs://data/rows/tran\.jsonl does not exist; data/rows holds _SUCCESS"
    ):
        gs("gs://data/rows/tran.jsonl")


def test_a_missing_bucket_of_google_is_named(gs: Fetch) -> None:
    with pytest.raises(UserError, match="there is no such bucket"):
        gs("gs://nothing/rows")
