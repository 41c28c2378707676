"""pvc:// and configmap:// paths stay inside their volumes."""

import gzip
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.contracts import DatasetSpec
from finetune_trainer.errors import UserError
from finetune_trainer.sources.fetch import open_data
from finetune_trainer.sources.volumes import resolve_volume_path


def test_a_configmap_key_is_followed_through_the_links_of_the_kubelet(volumes: Any) -> None:
    source = volumes.configmap("data", "a.jsonl", [{"x": 1}])
    with open_data(DatasetSpec(source=source), volumes.workspace) as stream:
        assert stream.read() == b'{"x": 1}\n'


def test_compressed_files_are_read(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    (volumes.claims / "c" / "a.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    with open_data(DatasetSpec(source="pvc://c/a.jsonl.gz"), volumes.workspace) as stream:
        assert list(stream) == [b"{}\n"]


def test_a_link_out_of_the_volume_is_refused(volumes: Any) -> None:
    (volumes.claims / "c").mkdir()
    (volumes.root / "secret").write_text("x")
    (volumes.claims / "c" / "link").symlink_to(volumes.root / "secret")
    with pytest.raises(UserError, match="symbolic link out of its volume"):
        resolve_volume_path("pvc://c/link")


def test_what_is_there_is_listed_when_the_path_is_not(volumes: Any) -> None:
    (volumes.claims / "c" / "models").mkdir(parents=True)
    (volumes.claims / "c" / "models" / "smollm2").mkdir()
    with pytest.raises(UserError, match="pvc://c/models/smolm2 does not exist; /models holds smollm2"):
        resolve_volume_path("pvc://c/models/smolm2")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a", "", "~", "b/c"]), max_size=6))
def test_no_path_leads_outside_the_volume(volumes: Any, parts: list[str]) -> None:
    (volumes.claims / "c" / "a").mkdir(parents=True, exist_ok=True)
    try:
        path = resolve_volume_path("pvc://c/" + "/".join(parts), must_exist=False)
    except UserError:
        return
    assert path.resolve().is_relative_to((volumes.claims / "c").resolve())
