"""Names fit Kubernetes whatever the owner is called; addresses are read or refused in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.api.adapterdeployment import AdapterDeploymentSpec
from finetune_operator.api.finetunejobstatus import STAGES
from finetune_operator.api.objects import ApiObject, Metadata
from finetune_operator.core.sources import Source, SourceError, parse_source
from finetune_operator.render import names

OWNER_NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def _owner(name: str, uid: str = "u-1") -> ApiObject:
    return ApiObject(metadata=Metadata(name=name, namespace="ns", uid=uid))


@settings(deadline=None)  # other work shares the processor
@given(name=OWNER_NAMES, uid=st.uuids(), stage=st.sampled_from(STAGES), number=st.integers(1, 99))
def test_every_name_is_a_dns_label(name: str, uid: object, stage: str, number: int) -> None:
    owner = _owner(name, str(uid))
    made = [
        names.child_name(owner, stage, number) + "-63",  # the host name of pod 63 of an Indexed Job
        names.workspace_name(owner),
        names.server_name(owner),
        names.manifest_name(owner),
    ]
    assert [n for n in made if not DNS_LABEL.fullmatch(n)] == []


def test_an_object_created_again_has_other_children() -> None:
    first, second = _owner("run", "uid-1"), _owner("run", "uid-2")
    assert names.child_name(first, "train", 1) != names.child_name(second, "train", 1)


def test_a_child_is_named_as_the_architecture_says() -> None:
    assert re.fullmatch(r"drug-train-2-[0-9a-f]{6}", names.child_name(_owner("drug"), "train", 2))


def test_a_version_names_its_alias_and_digest() -> None:
    assert names.version_name("drug-reviews", "sha256:" + "0123456789ab" * 5 + "cdef") == (
        "drug-reviews--0123456789ab"
    )


def test_no_alias_may_have_the_name_of_a_candidate() -> None:
    alias = AdapterDeploymentSpec.model_json_schema()["properties"]["alias"]
    rules = " ".join(rule["rule"] for rule in alias["x-kubernetes-validations"])
    refused = re.findall(r"!self\.startsWith\('(.+)'\)", rules)
    assert refused == ["candidate."]
    assert names.candidate_name(_owner("run")).startswith(refused[0])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hf://org/name", Source("hf", repo="org/name")),
        (
            "hf://datasets/org/name/data/a.jsonl",
            Source("hf", "data/a.jsonl", repo="org/name", dataset=True),
        ),
        ("pvc://claim", Source("pvc", claim="claim")),
        ("pvc://claim/a/b/", Source("pvc", "a/b", claim="claim")),
        ("configmap://name/key.jsonl", Source("configmap", "key.jsonl", name="name")),
        ("s3://bucket/a/b.jsonl", Source("s3", "a/b.jsonl", host="bucket")),
        ("gs://bucket/b.jsonl", Source("gs", "b.jsonl", host="bucket")),
        ("https://data.example:8443/a/b.csv", Source("https", "a/b.csv", host="data.example:8443")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_address_is_read(address: str, expected: Source) -> None:
    assert parse_source(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "model",
        "ftp://host/file",
        "http://host/file",
        "s3://bucket",
        "https://host/../file",
        "pvc://",
        "pvc://c/../x",
        "hf://org",
        "hf://datasets/org",
        "configmap://a",
    ],
)
def test_anything_else_is_refused_with_what_to_write(address: str) -> None:
    with pytest.raises(SourceError, match="write hf://ORG/NAME"):
        parse_source(address)


@settings(deadline=None)  # other work shares the processor
@given(st.text(max_size=60))
def test_no_path_leaves_its_volume(text: str) -> None:
    path = f"pvc://claim/{text}"
    if {".", ".."} & set(text.split("/")):
        with pytest.raises(SourceError, match=r"without \. or \.\."):
            parse_source(path)
    else:
        assert parse_source(path).claim == "claim"
