"""prepare through the command line, on real files: what it writes, adopts and refuses."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer.contracts import Job
from finetune_trainer.data.prepared import check_prepared
from finetune_trainer.errors import DatasetChanged
from finetune_trainer.files import read_json_lines
from finetune_trainer.fingerprint import fingerprint
from finetune_trainer.stages.prepare import _processes, lacking_space, sharded_by
from finetune_trainer.trained_rows import map_rows
from finetune_trainer.training.checkpoints import Sharding, mark_complete
from finetune_trainer.workspace import Workspace

Run = Callable[..., tuple[int, dict[str, Any]]]
Make = Callable[..., dict[str, Any]]


def test_a_good_job_is_prepared_and_the_choices_are_reported(
    job_document: Make, run_cli: Run, volumes: Any, tiny_base: Path
) -> None:
    code, result = run_cli(job_document())
    assert (code, result["outcome"], result["reason"]) == (0, "Succeeded", "Completed")
    summary = result["summary"]
    assert summary["baseName"] == "model"
    assert summary["baseFingerprint"] == fingerprint(tiny_base)
    assert (summary["rows"], summary["holdoutRows"]) == (12, 100)
    assert summary["training"] | {"maxLength": 0} == {
        "epochs": 3, "learningRate": 3e-4, "effectiveBatchSize": 8, "maxLength": 0, "seed": 17, "steps": 6,
    }  # fmt: skip
    assert summary["method"] == "LoRA"
    assert summary["lora"] == {
        "rank": 16,
        "alpha": 32,
        "rankStabilized": False,
        "targetModules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
    }


def test_the_prepared_files_are_what_the_later_stages_read(
    job_document: Make, run_cli: Run, volumes: Any, tokenizer: Any
) -> None:
    _, result = run_cli(job_document())
    workspace = Workspace(volumes.workspace)
    rows = map_rows(workspace.dataset_train).to_pylist()
    assert len(rows) == 12
    assert result["summary"]["longestRow"] == max(len(row["labels"]) for row in rows)
    trained = [label for label in rows[0]["labels"] if label != -100]
    assert tokenizer._tokenizer.decode(trained) == "answer 0<|im_end|>"
    held_out = read_json_lines(workspace.holdout)
    assert held_out[23] == {
        "id": "h23", "messages": [{"role": "user", "content": "held out 23"}], "reference": "answer 23",
    }  # fmt: skip
    prompts = [tokenizer._tokenizer.decode(row["promptIds"]) for row in held_out if "promptIds" in row]
    assert prompts == [
        f"<|im_start|>user\nheld out {i}<|im_end|>\n<|im_start|>assistant\n" for i in range(20)
    ]
    related = read_json_lines(workspace.related)
    assert [(row["id"], row["row"]) for row in related] == [(f"h{i}", i + 1) for i in range(100)]
    page = workspace.report_html.read_text()
    assert "<script" not in page
    assert "{'" not in page  # Python's notation
    found = json.loads(workspace.report_json.read_text())["findings"]
    expected = ["length_stats", "too_few", "data_band", "distribution_shift"]
    assert [item["rule"] for item in found] == expected
    assert [item["rule"] for item in found if item["overridden"] == "Ignore"] == ["too_few"]


# As Qwen3's: it leaves reasoning out of earlier turns, and can be told not to ask for it.
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_what_the_chat_template_gets_is_decided_once_for_all_stages(
    job_document: Make, run_cli: Run, volumes: Any, tmp_path: Path, make_base: Callable[..., Path]
) -> None:
    base = make_base(tmp_path / "thinks", THINKS)
    says = [{"role": role, "content": f"{role} {{i}} {{turn}}"} for role in ("user", "assistant")]
    rows = [
        {"messages": [{**m, "content": m["content"].format(i=i, turn=turn)} for turn in (1, 2) for m in says]}
        for i in range(12)
    ]
    document = job_document(
        baseModel={"source": volumes.claim("thinks", base), "revision": None, "fingerprint": None},
        dataset={"source": volumes.configmap("turns", "train.jsonl", rows), "revision": None},
    )
    code, result = run_cli(document)
    assert code == 0, result["message"]
    assert result["summary"]["chatTemplateKwargs"] == {"enable_thinking": False}
    assert (result["summary"]["splitRows"], result["summary"]["rows"]) == (12, 24)
    assert len(map_rows(Workspace(volumes.workspace).dataset_train)) == 24
    found = json.loads(Workspace(volumes.workspace).report_json.read_text())["findings"]
    assert {"template_reasoning", "split_rows"} <= {item["rule"] for item in found}


@pytest.mark.parametrize(
    ("free", "held", "saved_by", "expected"),
    [
        (250, 0, None, []),
        (100, 150, None, []),
        (
            100,
            0,
            None,
            [
                "Two checkpoints take 224.0 GiB, the workspace has 100.0 GiB for them; raise spec.workspace.size."
            ],
        ),
        (230, 112, 4, []),
        (
            138,
            112,
            4,
            [
                "The checkpoint was saved by 4 processes; rewriting it takes 336.0 GiB, the workspace has 250.0 "
                "GiB for checkpoints; use as many processes as before, or a larger volume."
            ],
        ),
    ],
    ids=[
        "room for two",
        "one is there already",
        "too little room",
        "room to rewrite one",
        "too little room to rewrite one",
    ],
)
def test_a_workspace_that_cannot_hold_the_checkpoints_is_warned_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    held: int,
    saved_by: int | None,
    expected: list[str],
) -> None:
    workspace = Workspace(tmp_path)
    workspace.checkpoints.mkdir()
    with (workspace.checkpoints / "state").open("wb") as file:
        file.truncate(held * 2**30)  # sparse: it takes no room here
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**30))
    assert lacking_space(workspace, 112 * 2**30, saved_by) == expected


@pytest.mark.parametrize(
    ("saved", "key", "expected"),
    [
        (None, "mine", None),
        (Sharding(4, 0), "mine", None),
        (Sharding(2, 2), "mine", None),
        (Sharding(4, 2), "other", None),
        (Sharding(4, 2), "mine", 4),
        (Sharding(1, 3), "mine", 1),
    ],
    ids=[
        "no checkpoint",
        "replicas fit any number",
        "the same number",
        "a checkpoint of other data, which is deleted",
        "ZeRO-2 of four processes",
        "ZeRO-3 of one process",
    ],
)
def test_only_shards_of_another_number_of_processes_take_room_to_rewrite(
    tmp_path: Path, saved: Sharding | None, key: str, expected: int | None
) -> None:
    workspace = Workspace(tmp_path)
    if saved:
        (checkpoint := workspace.checkpoints / "checkpoint-3").mkdir(parents=True)
        mark_complete(checkpoint, key, saved, {})
    assert sharded_by(workspace, "mine", 2) == expected
    assert sharded_by(workspace, "mine", None) is None


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"nodes": 1, "gpusPerNode": 0, "processesPerNode": None}, None),
        ({"nodes": 1, "gpusPerNode": 0, "processesPerNode": 2}, 2),
        ({"nodes": 2, "gpusPerNode": 0, "processesPerNode": None}, 2),
        ({"nodes": 2, "gpusPerNode": 4, "processesPerNode": None}, 8),
    ],
    ids=["the pod chooses", "the job says it", "one in each of several pods", "one for each GPU"],
)
def test_how_many_processes_train_is_known_unless_a_pod_chooses(
    job_document: Make, resources: dict[str, Any], expected: int | None
) -> None:
    assert _processes(Job.model_validate(job_document(resources=resources))) == expected


def test_tools_of_a_held_out_row_reach_the_engine(job_document: Make, run_cli: Run, volumes: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    asked = {"role": "user", "content": "held out"}
    row = {"messages": [asked, {"role": "assistant", "content": "answer"}], "tools": tools}
    rows = [
        {**row, "messages": [{**asked, "content": f"held out {i}"}, row["messages"][1]]} for i in range(60)
    ]
    document = job_document()
    document["spec"]["evaluation"]["dataset"]["source"] = volumes.configmap("tools", "holdout.jsonl", rows)
    assert run_cli(document)[0] == 0
    assert all(line["tools"] == tools for line in read_json_lines(Workspace(volumes.workspace).holdout))


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}"
    "<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_of_held_out_answers_are_what_the_template_writes(
    job_document: Make, run_cli: Run, volumes: Any, make_base: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_base(tmp_path / "calls", CALLS)
    function = {"name": "tide", "arguments": {"port": "Bergen"}}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    tools = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]
    rows = [
        {"messages": [{"role": "user", "content": f"held out {i}"}, answer], "tools": tools}
        for i in range(60)
    ]
    document = job_document(
        baseModel={"source": volumes.claim("calls", base), "revision": None, "fingerprint": None}
    )
    document["spec"]["evaluation"] |= {
        "dataset": {"source": volumes.configmap("tools", "holdout.jsonl", rows)},
        "graders": [{"name": "calls", "type": "ToolCall"}],
        "primary": "calls",
        "maxTokens": 100,
    }
    assert run_cli(document)[0] == 0
    held_out = read_json_lines(Workspace(volumes.workspace).holdout)
    assert {line["reference"] for line in held_out} == {
        '<call>{"name": "tide", "arguments": {"port": "Bergen"}}</call>'
    }
    assert {json.dumps(line["callSyntax"]) for line in held_out} == {json.dumps({
        "before": '<call>{"name": "', "opening": '", "arguments": ', "equals": "", "between": "", "closing": "",
    })}  # fmt: skip


def test_the_process_of_a_pod_compares_rows_and_meanings_without_torch(
    job_document: Make, volumes: Any, tmp_path: Path
) -> None:
    document = job_document()
    document["spec"]["dataset"]["rules"]["leak_semantic"] = "Warning"
    (tmp_path / "job.json").write_text(json.dumps(document))
    program = ["-X", "importtime", "-m", "finetune_trainer", "prepare", "--job", str(tmp_path / "job.json")]
    ended = subprocess.run(
        [sys.executable, *program, "--workspace", str(volumes.workspace)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines()}
    assert {"scipy.stats", "transformers"} <= imported
    assert "torch" not in imported


def test_a_rerun_reports_the_stored_result_without_reading_anything(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    document = job_document()
    _, first = run_cli(document)
    (volumes.configmaps / "data" / "..data" / "train.jsonl").unlink()
    assert run_cli(document) == (0, first)
    assert run_cli(document, "reemit") == (0, first)


def test_later_stages_notice_changed_data(job_document: Make, run_cli: Run, volumes: Any) -> None:
    document = job_document()
    run_cli(document)
    job, workspace = Job.model_validate(document), Workspace(volumes.workspace)
    assert check_prepared(workspace, job).summary["rows"] == 12
    other = Job.model_validate({**document, "specDigest": "sha256:" + "c" * 64})
    with pytest.raises(DatasetChanged, match="no data prepared for this spec"):
        check_prepared(workspace, other)


DAMAGES = {
    "the rows are cut short": lambda rows: rows[:-1],
    "a bit of the rows is flipped": lambda rows: rows[:300] + bytes([rows[300] ^ 1]) + rows[301:],
    "the rows are other ones": lambda rows: b"{}\n",
    "the rows are gone": lambda rows: None,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_rows_that_are_not_as_they_were_prepared_are_not_trained(
    damage: Callable[[bytes], bytes | None], job_document: Make, run_cli: Run, volumes: Any
) -> None:
    document = job_document()
    run_cli(document)
    rows = Workspace(volumes.workspace).dataset_train
    found = damage(rows.read_bytes())
    rows.unlink()
    if found is not None:
        rows.write_bytes(found)
    with pytest.raises(DatasetChanged, match=r"dataset/train\.arrow is not what was checked"):
        check_prepared(Workspace(volumes.workspace), Job.model_validate(document))


def test_rows_that_an_older_version_prepared_are_not_trained(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    document = job_document()
    run_cli(document)
    job, workspace = Job.model_validate(document), Workspace(volumes.workspace)
    record = json.loads(workspace.prepared.read_text())
    record["files"] = {"train.jsonl": record["files"].pop("train.arrow")}
    workspace.prepared.write_text(json.dumps(record))
    with pytest.raises(DatasetChanged, match="an older version prepared; run the job again"):
        check_prepared(workspace, job)


def test_the_same_rows_prepared_again_have_the_same_digests(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    documents = [job_document(), {**job_document(), "inputDigest": "sha256:" + "d" * 64}]
    written = []
    for document in documents:
        assert run_cli(document)[0] == 0
        written.append(check_prepared(Workspace(volumes.workspace), Job.model_validate(document)).files)
    assert written[0] == written[1]
    assert set(written[0]) == {"train.arrow", "holdout.jsonl"}


def test_another_spec_takes_over_a_workspace_without_its_checkpoints(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    run_cli(job_document())
    (volumes.workspace / "checkpoints" / "step-1").mkdir(parents=True)
    code, _ = run_cli(
        {**job_document(), "specDigest": "sha256:" + "c" * 64, "inputDigest": "sha256:" + "d" * 64}
    )
    assert code == 0
    assert not (volumes.workspace / "checkpoints").exists()


def test_without_evaluation_there_is_no_holdout(job_document: Make, run_cli: Run, volumes: Any) -> None:
    code, result = run_cli(job_document(evaluation=None))
    assert code == 0
    assert result["summary"]["holdoutDigest"] is None
    assert not Workspace(volumes.workspace).holdout.exists()


def _data(volumes: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"dataset": {"source": volumes.configmap("bad", "train.jsonl", rows)}}


def _base_without_weights(volumes: Any) -> dict[str, Any]:
    shutil.copytree(
        volumes.claims / "models" / "model", volumes.claims / "models" / "bare",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )  # fmt: skip
    return {"baseModel": {"source": "pvc://models/bare"}}


BAD = {
    "training rows lack an answer": (
        lambda v: _data(v, [{"prompt": "a", "completion": "b"}, {"prompt": "c"}]),
        ["Row 2: `completion` is missing"],
    ),
    "the dataset is not there": (
        lambda v: {"dataset": {"source": "configmap://data/nothing.jsonl"}},
        ["configmap://data/nothing.jsonl does not exist", "holds holdout.jsonl, train.jsonl"],
    ),
    "the claim is not mounted": (
        lambda v: {"dataset": {"source": "pvc://nowhere/train.jsonl"}},
        ["pvc://nowhere/train.jsonl: the volume is not mounted", "PersistentVolumeClaim nowhere exists"],
    ),
    "the path leaves the volume": (
        lambda v: {"dataset": {"source": "pvc://models/../../secret"}},
        ["leaves its volume"],
    ),
    "the dataset is a folder of other files": (
        lambda v: {"dataset": {"source": "pvc://models/model"}},
        ["The files are not of one kind", "config.json is JSON"],
    ),
    "the file is empty": (lambda v: _data(v, []), ["has no rows"]),
    "the base is another one": (
        lambda v: {"baseModel": {"source": "pvc://models/model", "fingerprint": "sha256:" + "0" * 64}},
        ["has the fingerprint sha256:", "asks for sha256:000"],
    ),
    "the base is no model": (
        lambda v: (v.claims / "models" / "empty").mkdir() or {"baseModel": {"source": "pvc://models/empty"}},
        ["models/empty holds no config.json that can be read"],
    ),
    "the base has no weights": (
        lambda v: _base_without_weights(v),
        ["The base model's folder holds no *.safetensors file"],
    ),
    "the batch does not fit the processes": (
        lambda v: {"training": {"effectiveBatchSize": 3}, "resources": {"nodes": 2}},
        ["effectiveBatchSize is 3 for 2 processes", "such as 4"],
    ),
    "the schema of a grader is broken": (
        lambda v: {"evaluation": {
            "dataset": {"source": "configmap://data/holdout.jsonl"},
            "graders": [{"name": "format", "type": "JsonSchema", "schema": "{"}]}},
        ["evaluation.graders: format: the schema is not valid JSON"],
    ),
    "rows are longer than allowed": (
        lambda v: {"training": {"maxLength": 16}},
        ["exceed 16 tokens", "raise training.maxLength"],
    ),
    "expected answers would be cut": (
        lambda v: {"evaluation": {
            "dataset": {"source": "configmap://data/holdout.jsonl"},
            "graders": [{"name": "exact", "type": "ExactMatch"}], "maxTokens": 1}},
        ["Right answers to rows 1, 2, 3 and 97 more would be cut", "evaluation.maxTokens (1); raise it above"],
    ),
    "a grader's class is not there": (
        lambda v: {"evaluation": {
            "dataset": {"source": "configmap://data/holdout.jsonl"},
            "graders": [{"name": "own", "type": "Python", "grader": "no.such:Grader"}]}},
        ["evaluation.graders: own: no.such:Grader cannot be loaded (No module named 'no')"],
    ),
    "a prompt leaves no room for an answer": (
        lambda v: {"evaluation": {
            "dataset": {"source": "configmap://data/holdout.jsonl"},
            "graders": [{"name": "exact", "type": "ExactMatch"}], "maxTokens": 250}},
        ["leave no room for evaluation.maxTokens"],
    ),
    "the hold-out is in the training data": (
        lambda v: _data(v, [{"prompt": "Held  OUT 7", "completion": "x"}]),
        ["The training data holds 1 hold-out input, first row 8 (training row 1)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_in_a_sentence(
    case: tuple[Callable[[Any], dict[str, Any]], list[str]], job_document: Make, run_cli: Run, volumes: Any
) -> None:
    change, expected = case
    job_document()  # mounts the good sources, so that messages can list what is there
    code, result = run_cli(job_document(**change(volumes)))
    assert (code, result["reason"]) == (64, "UserError"), result["message"]
    for text in expected:
        assert text in result["message"]


def test_all_structural_errors_are_reported_at_once_and_in_the_report(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    rows = [
        {"messages": [{"role": "bot", "content": "x"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user"}]},
        {"messages": []},
    ]
    _, result = run_cli(job_document(**_data(volumes, rows)))
    report = json.loads(Workspace(volumes.workspace).report_json.read_text())
    assert {finding["number"] for finding in report["findings"]} == {5, 6, 8, 9, 10}
    assert "And 2 more findings" in result["message"]
    assert "dataset/report.html" in result["message"]


def test_a_destination_that_holds_other_files_is_refused(
    job_document: Make, run_cli: Run, volumes: Any
) -> None:
    (volumes.destination / "adapters" / "result").mkdir()
    (volumes.destination / "adapters" / "result" / "notes.txt").write_text("mine")
    code, result = run_cli(job_document())
    assert code == 64
    assert "pvc://adapters/result is not empty and no published result (notes.txt)" in result["message"]
