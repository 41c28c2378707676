"""Who is woken by whom."""

from __future__ import annotations

from typing import Any

from finetune_operator.runtime.cache.references import References
from finetune_operator.runtime.resources import Key

ADAPTER = Key("AdapterDeployment", "demo", "d")
SERVER = Key("ModelServer", "demo", "s")
JOB = Key("FineTuneJob", "demo", "j")
SPEC: dict[str, Any] = {"serverRef": {"name": "s"}, "adapter": {"fineTuneJobRef": {"name": "j"}}}


def test_an_adapter_wakes_its_server_and_is_woken_by_what_it_names() -> None:
    references = References()
    assert references.changed(ADAPTER, SPEC) == {SERVER}
    assert references.changed(JOB, {}) == {ADAPTER}
    assert references.changed(SERVER, {}) == {ADAPTER}


def test_a_deleted_adapter_wakes_its_server_and_is_woken_no_more() -> None:
    references = References()
    references.changed(ADAPTER, SPEC)
    assert references.gone(ADAPTER) == {SERVER}
    assert references.changed(JOB, {}) == set()


def test_a_changed_adapter_follows_its_new_job_only() -> None:
    references = References()
    references.changed(ADAPTER, SPEC)
    references.changed(ADAPTER, {**SPEC, "adapter": {"fineTuneJobRef": {"name": "k"}}})
    assert references.changed(JOB, {}) == set()
    assert references.changed(Key("FineTuneJob", "demo", "k"), {}) == {ADAPTER}


def test_a_spec_of_any_shape_is_no_reason_to_fail() -> None:
    references = References()
    assert references.changed(ADAPTER, {"serverRef": "s", "adapter": {"fineTuneJobRef": None}}) == set()


def test_names_do_not_cross_namespaces() -> None:
    references = References()
    references.changed(ADAPTER, SPEC)
    assert references.changed(Key("FineTuneJob", "other", "j"), {}) == set()
