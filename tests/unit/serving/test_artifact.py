"""Copying by digest: nothing reaches the engine that was not named and hashed."""

import errno
import hashlib
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_serving.adapter.config import parse_config
from finetune_serving.agent import artifact
from finetune_serving.agent.artifact import local_folder, stage
from finetune_serving.agent.preflight import Limits, check_weights
from finetune_serving.agent.refusal import RefusedError
from finetune_serving.documents import VersionEntry
from tests.unit.serving.conftest import tiny_weights

LIMITS = Limits("sha256:" + "b" * 64, 16)
Publish = Callable[..., dict[str, Any]]


FIELDS = st.sampled_from(
    ["peft_type", "r", "lora_alpha", "target_modules", "rank_pattern", "bias", "files", "kind", "promoted",
     "__metadata__", "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "dtype", "shape",
     "data_offsets"]
)  # fmt: skip


def json_values() -> st.SearchStrategy[Any]:
    """JSON whose objects use the names that the documents use."""
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["LORA", "F32", "x"])
    return st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=5)
    )


def framed(value: Any, data: bytes) -> bytes:
    """A value as the header of a safetensors file."""
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def staged(tmp_path: Path, entry: dict[str, Any]) -> Path:
    parsed = VersionEntry.model_validate(entry)
    return stage(parsed, tmp_path / "sources", tmp_path / "adapters", LIMITS).folder


def refusal(tmp_path: Path, entry: dict[str, Any]) -> tuple[str, bool]:
    with pytest.raises(RefusedError) as caught:
        staged(tmp_path, entry)
    left = list((tmp_path / "adapters").iterdir()) if (tmp_path / "adapters").exists() else []
    assert all(not path.name.startswith(".") for path in left)
    return caught.value.reason, caught.value.retry


def message(tmp_path: Path, entry: dict[str, Any]) -> str:
    """Why an entry is refused, "" when it is staged; any other exception is one too many."""
    try:
        staged(tmp_path, entry)
    except RefusedError as error:
        return error.message
    return ""


def source(tmp_path: Path, name: str = "a") -> Path:
    return tmp_path / "sources" / "pvc" / "adapters" / name


def test_a_published_adapter_is_copied_under_its_digest(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a", extra={"README.md": b"for people"})
    folder = staged(tmp_path, entry)
    assert folder.name == entry["digest"][7:]
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "manifest.json"]


def test_digests_that_begin_alike_have_folders_of_their_own(tmp_path: Path) -> None:
    one, two = (local_folder(tmp_path, f"sha256:{'a' * 12}{digit * 52}") for digit in "bc")
    assert one != two


def test_a_complete_copy_is_kept_and_a_damaged_one_replaced(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    folder = staged(tmp_path, entry)
    inode = folder.stat().st_ino
    assert staged(tmp_path, entry).stat().st_ino == inode
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(b"damaged")
    assert (staged(tmp_path, entry) / "adapter_model.safetensors").read_bytes() == weights


def test_a_folder_that_is_not_there_may_still_come(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    shutil.rmtree(source(tmp_path))
    assert refusal(tmp_path, entry) == ("ArtifactMissing", True)


def test_a_file_that_is_not_there_may_still_come(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_model.safetensors").unlink()
    assert refusal(tmp_path, entry) == ("ArtifactMissing", True)


def test_a_manifest_published_again_is_not_what_was_deployed(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    manifest = source(tmp_path) / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert refusal(tmp_path, entry) == ("DigestMismatch", False)


@pytest.mark.parametrize("content", [b"weights of b", b"short", b"much longer than was recorded"])
def test_weights_that_differ_from_the_manifest_are_refused(
    tmp_path: Path, publish: Publish, content: bytes
) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_model.safetensors").write_bytes(content)
    assert refusal(tmp_path, entry) == ("DigestMismatch", False)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    weights = source(tmp_path) / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


def test_a_linked_folder_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    source(tmp_path).rename(tmp_path / "elsewhere")
    source(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


@pytest.mark.parametrize(
    "address", ["pvc://adapters/../secret", "pvc://../x/y", "s3://bucket/x", "/etc", "pvc://"]
)
def test_odd_sources_are_refused(tmp_path: Path, publish: Publish, address: str) -> None:
    assert refusal(tmp_path, publish("a") | {"source": address}) == ("InvalidArtifact", False)


@pytest.mark.parametrize("name", ["adapter_model.bin", "code.py", "payload"])
def test_files_that_could_run_code_are_refused(tmp_path: Path, publish: Publish, name: str) -> None:
    assert refusal(tmp_path, publish("a", extra={name: b"x"})) == ("InvalidArtifact", False)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([], id="nothing listed"),
        pytest.param([{"path": "../x.json", "sha256": "0" * 64, "bytes": 1}], id="a path that climbs out"),
    ],
)
def test_odd_file_lists_are_refused(tmp_path: Path, publish: Publish, files: list[Any]) -> None:
    assert refusal(tmp_path, publish("a", manifest={"files": files})) == ("InvalidArtifact", False)


def test_an_unpromoted_adapter_is_not_even_copied(tmp_path: Path, publish: Publish) -> None:
    assert refusal(tmp_path, publish("a", manifest={"promoted": False})) == ("Unpromoted", False)
    assert not (tmp_path / "adapters").exists()


def test_a_config_that_the_engine_cannot_serve_is_refused(tmp_path: Path, publish: Publish) -> None:
    assert refusal(tmp_path, publish("a", config={"use_dora": True})) == ("UnsupportedAdapter", False)


def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    text = json.dumps([1]).encode()
    (source(tmp_path) / "manifest.json").write_bytes(text)
    digest = "sha256:" + hashlib.sha256(text).hexdigest()
    assert refusal(tmp_path, entry | {"digest": digest}) == ("InvalidArtifact", False)


def test_a_source_that_is_a_loop_of_links_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    shutil.rmtree(source(tmp_path))
    source(tmp_path).symlink_to(source(tmp_path))
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


def test_a_file_in_the_way_of_a_folder_may_still_go(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    shutil.rmtree(source(tmp_path))
    source(tmp_path).write_text("")
    assert refusal(tmp_path, entry) == ("ArtifactMissing", True)


def test_a_named_pipe_is_refused_without_waiting_for_it(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_config.json").unlink()
    os.mkfifo(source(tmp_path) / "adapter_config.json")
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    (source(tmp_path) / "adapter_config.json").unlink()
    (source(tmp_path) / "adapter_config.json").mkdir()
    assert refusal(tmp_path, entry) == ("InvalidArtifact", False)


@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("name", ["a", "manifest.json", "adapter_config.json", "adapter_model.safetensors"])
def test_what_cannot_be_opened_now_is_tried_again(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    entry, real = publish("a"), os.open

    def fail(path: Any, *rest: Any, **options: Any) -> int:
        if path == name and options.get("dir_fd") is not None:
            raise OSError(code, os.strerror(code))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(RefusedError, match=os.strerror(code)) as caught:
        staged(tmp_path, entry)
    assert (caught.value.reason, caught.value.retry) == ("LoadFailed", True)
    assert "pvc://adapters/a" in caught.value.message
    monkeypatch.undo()
    assert staged(tmp_path, entry).is_dir()


class Unreadable(io.BytesIO):
    def read(self, *_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("name", ["manifest.json", "adapter_config.json", "adapter_model.safetensors"])
def test_what_breaks_off_while_it_is_read_is_tried_again(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    entry, real = publish("a"), artifact._open
    monkeypatch.setattr(artifact, "_open", lambda f, n: Unreadable() if n == name else real(f, n))
    assert refusal(tmp_path, entry) == ("LoadFailed", True)


def test_no_folder_for_the_copy_is_tried_again(tmp_path: Path, publish: Publish) -> None:
    entry = publish("a")
    (tmp_path / "adapters").write_text("left over")
    with pytest.raises(RefusedError, match="volume") as caught:
        staged(tmp_path, entry)
    assert (caught.value.reason, caught.value.retry) == ("LoadFailed", True)


@pytest.mark.parametrize("when", ["mkdir", "rename", "write_bytes", "open"])
def test_a_full_disk_is_tried_again_and_leaves_nothing(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    entry, real = publish("a"), getattr(Path, when)

    def fail(path: Path, *rest: Any, **options: Any) -> Any:
        if path.name.endswith(".partial") or path.parent.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *rest, **options)

    monkeypatch.setattr(Path, when, fail)
    with pytest.raises(RefusedError, match=r"No space left on device.*volume") as caught:
        staged(tmp_path, entry)
    assert (caught.value.reason, caught.value.retry) == ("LoadFailed", True)
    monkeypatch.undo()
    assert staged(tmp_path, entry).is_dir()


@settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["manifest.json", "adapter_config.json", "adapter_model.safetensors"]),
    content=st.one_of(
        st.binary(max_size=300),
        st.builds(lambda value: json.dumps(value).encode(), json_values()),
        st.builds(framed, json_values(), st.binary(max_size=40)),
    ),
)
def test_any_bytes_in_a_file_are_refused_or_staged(
    tmp_path: Path, publish: Publish, name: str, content: bytes
) -> None:
    shutil.rmtree(tmp_path / "sources", ignore_errors=True)
    published = publish("a", extra={name: content} if name != "manifest.json" else None)
    if name == "manifest.json":
        (source(tmp_path) / name).write_bytes(content)
        published["digest"] = "sha256:" + hashlib.sha256(content).hexdigest()
    assert len(message(tmp_path, published)) < 1000


@settings(max_examples=150, deadline=2000)
@given(st.integers(0, 700), st.binary(min_size=1, max_size=8), st.booleans())
def test_any_damage_to_the_weights_is_refused_or_harmless(at: int, put: bytes, insert: bool) -> None:
    whole = tiny_weights("a", 8)
    damaged = whole[:at] + put + whole[at + (0 if insert else len(put)) :]
    config = parse_config(b'{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": []}')
    with suppress(RefusedError), tempfile.TemporaryFile() as file:
        file.write(damaged)
        file.seek(0)
        check_weights(file, config, LIMITS)


@pytest.mark.parametrize("field", ["bias", "init_lora_weights", "peft_type", "modules_to_save", "r"])
def test_a_message_does_not_repeat_a_long_value(tmp_path: Path, publish: Publish, field: str) -> None:
    assert 0 < len(message(tmp_path, publish("a", config={field: "x" * 100_000}))) < 1000


def test_a_copy_that_cannot_be_read_now_is_kept_for_the_next_try(
    tmp_path: Path, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish("a")
    folder = staged(tmp_path, entry)

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(artifact, "check_weights", fail)
    assert refusal(tmp_path, entry) == ("LoadFailed", True)
    assert folder.is_dir()
