"""publish and adoption through the command line."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from finetune_trainer.contracts import AdapterManifest, Result
from finetune_trainer.evaluation.curves import write_curves
from finetune_trainer.files import read_json_lines, write_atomically
from finetune_trainer.grading import Grade
from finetune_trainer.results import result_path
from finetune_trainer.scoring.baseline_store import rows_path
from finetune_trainer.scoring.rows import GradedRow, write_rows
from finetune_trainer.workspace import Workspace

Run = Callable[..., tuple[int, dict[str, Any]]]
Make = Callable[..., dict[str, Any]]
PUBLISH = "sha256:" + "e" * 64


@pytest.fixture
def trained(job_document: Make, run_cli: Run, volumes: Any, tiny_base: Path) -> None:
    """A workspace as prepare leaves it, with a real PEFT adapter as train leaves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    assert run_cli(job_document())[0] == 0
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), LoraConfig(r=16, lora_alpha=32))
    adapter = volumes.workspace / "output" / "adapter"
    model.save_pretrained(adapter)
    (adapter / "training_args.bin").write_bytes(b"pickle")


@pytest.fixture
def publish_job(job_document: Make) -> dict[str, Any]:
    """The job file of the publish stage."""
    return {**job_document("publish"), "inputDigest": PUBLISH}


@pytest.fixture
def published(trained: None, publish_job: dict[str, Any], run_cli: Run, volumes: Any) -> Path:
    """The destination after publishing."""
    code, result = run_cli(publish_job)
    assert code == 0, result["message"]
    return Path(volumes.destination / "adapters" / "result")


def test_only_known_files_and_a_manifest_with_their_digests_are_published(published: Path) -> None:
    assert sorted(path.name for path in published.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "manifest.json", "report.html",
    ]  # fmt: skip
    manifest = AdapterManifest.model_validate_json((published / "manifest.json").read_bytes())
    assert [file.path for file in manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert [file.path for file in manifest.documents] == ["README.md", "report.html"]
    for file in manifest.files + manifest.documents:
        content = (published / file.path).read_bytes()
        assert (file.sha256, file.bytes) == (sha256(content).hexdigest(), len(content))
    assert manifest.adapter is not None
    assert (manifest.adapter.rank, manifest.promoted, manifest.verdict) == (16, True, "Promote")
    assert sorted(path.name for path in published.parent.iterdir()) == ["result"]


def test_answers_report_and_card_of_an_evaluation_stand_beside_the_files_that_servers_copy(
    trained: None, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    evaluate(Workspace(volumes.workspace))
    assert run_cli(publish_job)[0] == 0
    folder = volumes.destination / "adapters" / "result"
    manifest = AdapterManifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert [file.path for file in manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert [file.path for file in manifest.documents] == [
        "README.md", "evaluation/traces.jsonl", "evaluation/traces.parquet", "report.html",
    ]  # fmt: skip
    for file in manifest.documents:
        assert sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256
    traces = [json.loads(line) for line in (folder / "evaluation" / "traces.jsonl").open()]
    assert [(trace["id"], trace["model"]) for trace in traces[:2]] == [("h0", "base"), ("h0", "tuned")]
    assert (len(traces), {trace["output"] for trace in traces}) == (200, {"wrong", "right"})
    page = (folder / "report.html").read_text()
    assert "<h1>The tuned model is better than its base</h1>" in page
    assert "Promoted: it may be deployed." in page
    card = ModelCard((folder / "README.md").read_text())
    assert card.data.eval_results[0].metric_value == 0.9
    assert str(volumes.root) not in page + str(card)


def test_where_the_evaluation_cannot_be_sent_to_is_told_and_the_result_is_published(
    trained: None, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    evaluate(Workspace(volumes.workspace))
    mlflow = {"trackingUri": "http://127.0.0.1:9", "experiment": "reviews"}
    publish_job["spec"]["evaluation"]["export"] = {"mlflow": mlflow}
    code, result = run_cli(publish_job)
    assert code == 0
    assert result["message"].endswith(
        "The evaluation could not be sent to MLflow: 127.0.0.1:9 cannot be reached (ConnectError)."
    )
    assert (volumes.destination / "adapters" / "result" / "manifest.json").is_file()


def evaluate(workspace: Workspace) -> None:
    """What baseline, train and evaluate leave: the base is right on row 0 only, the tuned model on 90 of 100."""
    key = "5" * 64
    ids = [row["id"] for row in read_json_lines(workspace.holdout)]
    for who, right in (("base", 1), ("tuned", 90)):
        write_rows(
            rows_path(workspace, who, key), [answered(name, place < right) for place, name in enumerate(ids)]
        )
    write_curves(workspace, (2.0, 1.0), (1e-3, 0.0))
    interval = {"score": 0.9, "low": 0.8, "high": 1.0}
    summary = {
        "metric": "exact", "rows": 100, "base": interval, "tuned": interval, "delta": interval,
        "graders": {"exact": {"base": 0.01, "tuned": 0.9}}, "verdict": "Promote",
    }  # fmt: skip
    result = Result(
        stage="evaluate",
        input_digest=PUBLISH,
        outcome="Succeeded",
        reason="Completed",
        message="",
        summary=summary,
    )
    write_atomically(result_path(workspace, "evaluate", PUBLISH), result.to_json())


def answered(name: str, right: bool) -> GradedRow:
    """A graded answer."""
    grade = Grade(1.0, True, "") if right else Grade(0.0, False, "differs")
    return GradedRow(name, "right" if right else "wrong", "stop", 1, None, {"exact": grade}, None, 0.1)


def test_a_model_card_may_be_edited_afterwards(
    published: Path, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    (published / "README.md").write_text("Ours.")
    (published / "report.html").unlink()
    for stored in (volumes.workspace / "results").glob("publish-*"):
        stored.unlink()
    assert run_cli(publish_job)[0] == 0
    assert (published / "README.md").read_text() == "Ours."


def test_the_manifest_says_what_every_prompt_passes_to_the_chat_template(
    trained: None, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    prepared = volumes.workspace / "dataset" / "prepared.json"
    document = json.loads(prepared.read_bytes())
    document["summary"]["chatTemplateKwargs"] = {"enable_thinking": False}
    prepared.write_text(json.dumps(document))
    assert run_cli(publish_job)[0] == 0
    manifest = json.loads((volumes.destination / "adapters" / "result" / "manifest.json").read_bytes())
    assert manifest["chatTemplateKwargs"] == {"enable_thinking": False}


def test_the_adapter_names_the_base_that_the_user_named(published: Path) -> None:
    config = json.loads((published / "adapter_config.json").read_bytes())
    assert (config["base_model_name_or_path"], config["revision"]) == ("pvc://models/model", None)


def test_the_summary_names_the_digest_of_the_manifest(
    published: Path, publish_job: dict[str, Any], run_cli: Run
) -> None:
    _, result = run_cli(publish_job)
    digest = sha256((published / "manifest.json").read_bytes()).hexdigest()
    assert result["summary"]["digest"] == f"sha256:{digest}"
    assert result["summary"]["files"] == 2
    assert result["summary"]["destination"] == "pvc://adapters/result"


def test_publishing_again_changes_nothing(
    published: Path, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    before = (published / "manifest.json").read_bytes()
    for stored in (volumes.workspace / "results").glob("publish-*"):
        stored.unlink()
    assert run_cli(publish_job)[0] == 0
    assert (published / "manifest.json").read_bytes() == before


def test_a_new_job_with_the_same_spec_adopts_the_publication(
    published: Path, job_document: Make, run_cli: Run, volumes: Any, tmp_path: Path
) -> None:
    for stored in (volumes.workspace / "results").iterdir():
        stored.unlink()
    code, result = run_cli({**job_document(), "uid": "uid-2"})
    assert code == 0
    summary = result["summary"]
    assert (summary["adopted"], summary["rows"], summary["artifact"]["promoted"]) == (True, 12, True)
    assert summary["artifact"]["digest"].startswith("sha256:")
    assert summary["scores"] is None


def with_suite(volumes: Any) -> dict[str, Any]:
    """A suite of one row, with which the published result was not judged."""
    source = volumes.configmap("general", "suite.jsonl", [{"prompt": "1 + 1?", "completion": "2"}])
    grader = {"name": "answer", "type": "ExactMatch"}
    return {"suites": [{"name": "general", "dataset": {"source": source}, "grader": grader}]}


REFUSED = {
    "another spec": (
        lambda document, v, p: document.update(specDigest="sha256:" + "f" * 64),
        "already holds the result of another spec, published by demo/job",
    ),
    "the same spec with other data": (
        lambda document, v, p: v.configmap("data", "train.jsonl", [{"prompt": "new", "completion": "row"}]),
        "already holds a result of this spec, made from other data",
    ),
    "the same spec with another suite": (
        lambda document, v, p: document["spec"]["evaluation"].update(regression=with_suite(v)),
        "already holds a result of this spec, made from other data",
    ),
    "a damaged file": (
        lambda document, v, p: (p / "adapter_model.safetensors").write_bytes(b"x"),
        "adapter_model.safetensors is missing or changed",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_destination_is_not_taken_over(
    case: Any, published: Path, job_document: Make, run_cli: Run, volumes: Any
) -> None:
    change, text = case
    document = {**job_document(), "inputDigest": "sha256:" + "9" * 64}
    change(document, volumes, published)
    code, result = run_cli(document)
    assert code == 64
    assert text in result["message"]


def test_an_unfinished_adapter_is_not_published(
    trained: None, publish_job: dict[str, Any], run_cli: Run, volumes: Any
) -> None:
    (volumes.workspace / "output" / "adapter" / "adapter_model.safetensors").unlink()
    code, result = run_cli(publish_job)
    assert code == 64
    assert "output/adapter lacks adapter_model.safetensors" in result["message"]
    assert list((volumes.destination / "adapters").iterdir()) == []


def test_method_full_publishes_a_model_folder_that_is_a_base_again(
    job_document: Make, run_cli: Run, volumes: Any, tiny_base: Path
) -> None:
    assert run_cli(job_document(method="Full"))[0] == 0
    output = volumes.workspace / "output" / "model"
    output.mkdir(parents=True)
    for path in tiny_base.iterdir():
        (output / path.name).write_bytes(path.read_bytes())
    (output / "optimizer.pt").write_bytes(b"state")
    code, result = run_cli({**job_document("publish", method="Full"), "inputDigest": PUBLISH})
    assert code == 0, result["message"]
    folder = volumes.destination / "adapters" / "result"
    manifest = AdapterManifest.model_validate_json((folder / "manifest.json").read_bytes())
    assert (manifest.kind, manifest.adapter) == ("Model", None)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "manifest.json"} <= names
    assert "optimizer.pt" not in names
