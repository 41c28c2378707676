"""manifest.json as the trainer writes it, read by the server's agent."""

import json

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_serving.documents import AdapterManifest as ServedManifest
from finetune_trainer.contracts import (
    AdapterManifest,
    DataDigests,
    ManifestBase,
    ManifestFile,
    ManifestJob,
    ManifestLora,
    json_schemas,
)

DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
FILES = st.builds(
    ManifestFile,
    path=st.sampled_from(["adapter_model.safetensors", "adapter_config.json"]),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    bytes=st.integers(0, 2**53),
)
MANIFESTS = st.builds(
    # A plain function: hypothesis would also fill the fields' public names, which the class's signature has.
    lambda **fields: AdapterManifest(**fields),
    kind=st.sampled_from(["Adapter", "Model"]),
    spec_digest=DIGESTS,
    method=st.sampled_from(["LoRA", "Full"]),
    base_model=st.builds(ManifestBase, source=st.text(), revision=st.none() | st.text(), fingerprint=DIGESTS),
    adapter=st.none() | st.builds(ManifestLora, rank=st.integers(1, 256), alpha=st.integers(1, 1024)),
    files=st.lists(FILES, max_size=3).map(tuple),
    data=st.builds(DataDigests, train=DIGESTS, holdout=st.none() | DIGESTS),
    chat_template_kwargs=st.dictionaries(st.text(), st.booleans() | st.text(), max_size=2),
    training=st.just({}),
    scores=st.none() | st.just({"verdict": "Promote"}),
    verdict=st.none() | st.text(),
    promoted=st.booleans(),
    accepted=st.lists(st.text(), max_size=2).map(tuple),
    versions=st.just({"torch": "2"}),
    job=st.builds(ManifestJob, namespace=st.text(), name=st.text(), uid=st.text()),
)


@settings(max_examples=60, deadline=None)
@given(MANIFESTS)
def test_the_agent_reads_every_manifest_that_the_trainer_can_write(manifest: AdapterManifest) -> None:
    read = ServedManifest.model_validate_json(manifest.to_json())
    assert read.promoted == manifest.promoted
    assert read.chat_template_kwargs == manifest.chat_template_kwargs
    assert read.base_model.fingerprint == manifest.base_model.fingerprint
    assert [file.sha256 for file in read.files] == [file.sha256 for file in manifest.files]
    assert (read.adapter.rank if read.adapter else None) == (
        manifest.adapter.rank if manifest.adapter else None
    )


@settings(max_examples=30, deadline=None)
@given(MANIFESTS)
def test_the_exported_schema_describes_what_is_written(manifest: AdapterManifest) -> None:
    jsonschema.validate(json.loads(manifest.to_json()), json_schemas()["manifest"])
