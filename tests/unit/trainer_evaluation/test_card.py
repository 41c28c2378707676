"""The model card: metadata as the Hub reads it, the same figures as the report, and nothing private."""

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from finetune_trainer.contracts import AdapterManifest, Job
from finetune_trainer.evaluation.card import code, license_of, model_card, public_source
from finetune_trainer.report.document import Report
from tests.unit.trainer_report.examples import evaluated, evaluation, full

DIGEST = "sha256:" + "a" * 64


def make_job(**spec: Any) -> Job:
    """A job file of the publish stage."""
    return Job.model_validate(
        {
            "namespace": "demo", "name": "drug-reviews-v1", "uid": "u", "stage": "publish", "attempt": 1,
            "specDigest": DIGEST, "inputDigest": DIGEST, "publish": {"promoted": True, "verdict": "Promote"},
            "spec": {
                "goal": "Format",
                "baseModel": {"source": "hf://org/base", "revision": "1" * 40},
                "dataset": {"source": "hf://datasets/org/rows/train.jsonl", "revision": "2" * 40},
                "evaluation": {
                    "dataset": {"source": "configmap://reviews/holdout.jsonl"},
                    "graders": [{"name": "fields", "type": "ExactMatch"}],
                },
                "output": {"destination": "pvc://adapters/x"},
                **spec,
            },
        }
    )  # fmt: skip


def make_manifest(**changes: Any) -> AdapterManifest:
    """A promoted adapter's manifest."""
    return AdapterManifest.model_validate(
        {
            "kind": "Adapter", "specDigest": DIGEST, "method": "LoRA",
            "baseModel": {"source": "hf://org/base", "revision": "1" * 40, "fingerprint": DIGEST},
            "adapter": {"rank": 16, "alpha": 32}, "files": [], "data": {"train": DIGEST, "holdout": DIGEST},
            "training": {"prepare": {"training": {"epochs": 3}, "baseLicense": "apache-2.0"}},
            "verdict": "Promote", "promoted": True, "versions": {"torch": "2.13.0"},
            "job": {"namespace": "demo", "name": "drug-reviews-v1", "uid": "u"}, **changes,
        }
    )  # fmt: skip


def card_of(job: Job, manifest: AdapterManifest, report: Report | None) -> ModelCard:
    """The card as the Hub's own client reads it; wrong metadata is an error."""
    return ModelCard(model_card(job, manifest, report), ignore_metadata_errors=False)


def test_the_metadata_names_base_data_and_what_loads_it() -> None:
    data = card_of(make_job(), make_manifest(), evaluated()).data
    assert isinstance(data, ModelCardData)
    assert (data.base_model, data.library_name, data.license) == ("org/base", "peft", "apache-2.0")
    assert (data.datasets, data.pipeline_tag) == (["org/rows"], "text-generation")
    assert {"lora", "peft"} <= set(data.tags or [])


def test_the_results_are_the_figures_of_the_report_by_the_schema_of_the_hub() -> None:
    text = model_card(make_job(), make_manifest(), evaluated())
    metadata = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "drug-reviews-v1"
    assert [(result.metric_type, result.metric_value) for result in results] == [
        ("fields", 0.683),
        ("valid", 1.0),
    ]
    for figure in ("68.3", "14.1", "+54.2", "46.8", "61.1"):
        assert figure in text


def test_the_card_has_prompts_and_suites_as_the_report_has_them() -> None:
    judged = evaluation().model_copy(update={"prompt_alone": "The prompt may be enough."})
    text = model_card(make_job(), make_manifest(), full().model_copy(update={"evaluation": judged}))
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "+61.1 points). The prompt may be enough." in plain
    assert "| base with the prompt `shots` | 31.0 % | 24.0 % to 39.0 % |" in plain
    assert (
        "| `arithmetic` | 90 | 31.0 % | 25.0 % | -6.0 points | -11.0 points | 5.0 % | may be worse |" in plain
    )


def test_what_is_not_on_the_hub_is_no_metadata_but_said() -> None:
    job = make_job(baseModel={"source": "pvc://models/base"}, dataset={"source": "s3://bucket/rows.jsonl"})
    manifest = make_manifest(
        baseModel={"source": "pvc://models/base", "fingerprint": DIGEST}, training={"prepare": {}}
    )
    card = card_of(job, manifest, evaluated())
    assert not {"base_model", "datasets", "license"} & card.data.to_dict().keys()
    assert "`pvc://models/base`" in card.text
    assert "`s3://bucket/rows.jsonl`" in card.text


def test_a_run_without_evaluation_says_so() -> None:
    job, manifest = make_job(evaluation=None), make_manifest(promoted=False, accepted=["EvalMissing"])
    for report in (full(), None):
        card = card_of(job, manifest, report)
        assert "Verdict: not evaluated" in card.text
        assert "Not promoted" in card.text
        assert "accepted EvalMissing" in card.text
        assert "traces" not in card.text
        assert "model-index" not in card.data.to_dict()


def test_a_run_whose_report_is_gone_is_not_called_unevaluated() -> None:
    manifest = make_manifest(scores={"verdict": "Promote"})
    card = card_of(make_job(), manifest, None)
    assert "Verdict: Promote" in card.text
    assert "not evaluated" not in card.text


def test_a_whole_model_is_loaded_without_peft() -> None:
    card = card_of(
        make_job(method="Full"), make_manifest(kind="Model", method="Full", adapter=None), evaluated()
    )
    assert card.data.library_name == "transformers"
    assert "PeftModel" not in card.text
    assert "AdapterDeployment" not in card.text
    assert "pvc://adapters/x" in card.text


def test_the_manifest_that_deploys_it_is_one() -> None:
    text = model_card(make_job(), make_manifest(), evaluated())
    document = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert document["kind"] == "AdapterDeployment"
    assert document["spec"]["adapter"] == {"fineTuneJobRef": {"name": "drug-reviews-v1"}}


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (
            "https://user:secret@example.org/rows.jsonl?X-Amz-Signature=secret#s",
            "https://example.org/rows.jsonl",
        ),
        ("https://example.org:8443/rows.jsonl", "https://example.org:8443/rows.jsonl"),
        ("s3://bucket/a?b.jsonl", "s3://bucket/a?b.jsonl"),
        ("pvc://claim/path", "pvc://claim/path"),
    ],
    ids=["a signed address", "a plain address", "a bucket's key", "a volume"],
)
def test_no_secret_of_an_address_is_shown(source: str, shown: str) -> None:
    assert public_source(source) == shown
    card = model_card(make_job(dataset={"source": source}), make_manifest(), evaluated())
    assert "secret" not in card


@pytest.mark.parametrize(
    ("readme", "named"),
    [
        pytest.param("---\nlicense: apache-2.0\n---\n# A base", "apache-2.0", id="an identifier"),
        pytest.param("# A base", None, id="no metadata"),
        pytest.param("---\nlicense: other\n---\n", None, id="one that is told elsewhere"),
        pytest.param("---\nlicense: [a, b]\n---\n", None, id="no text"),
        pytest.param("---\nlicense: 'x](javascript:1)'\n---\n", None, id="no identifier"),
        pytest.param("---\n- a\n---\n", None, id="metadata of another shape"),
        pytest.param("---\na: [\n---\n", None, id="no YAML"),
        pytest.param("---\nmodel-index: 3\nlicense: mit\n---\n", "mit", id="wrong results"),
        pytest.param("\x00\ufffd---", None, id="no text at all"),
    ],
)
def test_the_licence_of_a_base_is_what_its_card_says(readme: str, named: str | None) -> None:
    assert license_of(readme) == named


def test_a_name_stays_code_also_within_a_table() -> None:
    assert code("<b>`a|b`\n") == "`<b>'a\\|b'\N{REPLACEMENT CHARACTER}`"
