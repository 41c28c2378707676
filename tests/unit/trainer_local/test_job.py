"""`plan --job` and `prepare --work` as a user types them, on a machine without a cluster."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.__main__ import main
from finetune_trainer.trained_rows import map_rows
from finetune_trainer.workspace import Workspace
from tests.hub_stand_in import COMMIT, HubStandIn

Capture = pytest.CaptureFixture[str]
Write = Callable[..., Path]
TABLE = """
gpuTypes:
  h200: {memoryGiB: 139, peakTflops: 989, pricePerHour: "4.00", spotPricePerHour: "1.00", currency: USD}
  small: {memoryGiB: 0.5, peakTflops: 10}
  empty: {resourceName: nvidia.com/gpu}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The administrator's GPU types, in the chart's values."""
    path = tmp_path / "values.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture
def hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """The Hub's stand-in with the base model."""
    stand_in = HubStandIn({path.name: path.read_bytes() for path in base.iterdir()}, {})
    monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
    yield stand_in
    stand_in.stop()


def run(*arguments: object) -> int:
    try:
        return main([*map(str, arguments)])
    except SystemExit as ended:
        return int(ended.code or 0)


def planned(capsys: Capture, *arguments: object) -> tuple[int, dict[str, Any]]:
    code = run("plan", *arguments, "--output", "json")
    return code, json.loads(capsys.readouterr().out)


def test_a_job_is_planned_with_the_rows_and_the_prices_at_hand(
    write_job: Write, rows: tuple[str, ...], base: Path, table: Path, capsys: Capture
) -> None:
    code, plan = planned(capsys, "--job", write_job(), "--model", base, "--gpu-types", table, *rows)
    assert code == 0
    assert (plan["fits"], plan["gpu"], plan["gpus"], plan["gpuMemoryGiB"]) == (True, "h200", 1, 139)
    assert plan["peakGiB"] == pytest.approx(sum(plan["breakdown"].values()), abs=0.1)
    assert (plan["suggestion"], plan["refused"]) == (None, None)
    assert (plan["scoring"]["gpus"], plan["scoring"]["gpu"]) == (1, "h200")
    estimate = plan["estimate"]
    assert (estimate["currency"], estimate["calibrated"]) == ("USD", False)
    assert estimate["costLow"] <= estimate["cost"] <= estimate["costHigh"]
    assert estimate["cost"] == pytest.approx(4 * estimate["hours"], abs=0.01)


def test_spot_prices_are_for_jobs_on_spot_nodes(
    write_job: Write, rows: tuple[str, ...], base: Path, table: Path, capsys: Capture
) -> None:
    job = write_job(resources={"gpuType": "h200", "spot": True})
    _, plan = planned(capsys, "--job", job, "--model", base, "--gpu-types", table, *rows)
    assert plan["estimate"]["cost"] == pytest.approx(plan["estimate"]["hours"], abs=0.01)


def test_flags_ask_what_another_machine_would_take(
    write_job: Write, rows: tuple[str, ...], base: Path, capsys: Capture
) -> None:
    job = write_job(resources={"gpusPerNode": 0})
    _, plan = planned(capsys, "--job", job, "--model", base, "--gpu", "L4", "--gpus", 2, *rows)
    assert (plan["gpu"], plan["gpus"], plan["gpuMemoryGiB"]) == ("L4", 2, 22)
    assert plan["estimate"]["cost"] is None  # no price is built in


def test_a_flag_replaces_one_figure_of_the_table(
    write_job: Write, rows: tuple[str, ...], base: Path, table: Path, capsys: Capture
) -> None:
    flags = ("--model", base, "--gpu-types", table, "--gpu-memory-gib", 80, *rows)
    _, plan = planned(capsys, "--job", write_job(), *flags)
    assert plan["gpuMemoryGiB"] == 80
    assert plan["estimate"]["cost"] == pytest.approx(4 * plan["estimate"]["hours"], abs=0.01)


def test_what_does_not_fit_ends_with_1_and_says_what_to_change(
    write_job: Write, rows: tuple[str, ...], base: Path, table: Path, capsys: Capture
) -> None:
    job = write_job(method="Full")
    flags = ("--model", base, "--gpu-types", table, "--gpu", "small", *rows)
    code, plan = planned(capsys, "--job", job, *flags)
    assert (code, plan["fits"]) == (1, False)
    assert plan["peakGiB"] > plan["limitGiB"]
    assert "set resources.gpuType: h200 (" in plan["suggestion"]
    assert plan["suggestion"] in plan["refused"]


def test_a_run_above_its_budget_ends_with_1(
    write_job: Write, rows: tuple[str, ...], base: Path, table: Path, capsys: Capture
) -> None:
    job = write_job(budget={"limit": "0.01", "currency": "USD"})
    assert run("plan", "--job", job, "--model", base, "--gpu-types", table, *rows) == 1
    assert "above spec.budget.limit of USD\N{NO-BREAK SPACE}0.01" in capsys.readouterr().err


def test_prepare_leaves_the_rows_as_they_are_trained_and_the_report(
    write_job: Write, rows: tuple[str, ...], base: Path, tmp_path: Path, capsys: Capture
) -> None:
    work = Workspace(tmp_path / "work")
    assert run("prepare", "--job", write_job(), "--work", work.root, "--model", base, *rows) == 0
    assert "default/tiny" in (shown := capsys.readouterr().out)
    assert str(work.report_html) in shown
    assert len(map_rows(work.dataset_train)) == 12
    assert len(work.holdout.read_text().splitlines()) == 100
    report = json.loads(work.report_json.read_text())
    assert (report["memory"]["gpu"], report["memory"]["fits"]) == ("h200", True)
    assert report["datasets"]["train"]["source"] == rows[1]
    assert sorted(path.name for path in work.root.iterdir()) == ["dataset"]


def test_rows_with_errors_end_with_1_and_leave_only_the_report(
    write_job: Write, rows: tuple[str, ...], base: Path, tmp_path: Path, capsys: Capture
) -> None:
    work = Workspace(tmp_path / "work")
    prepare = ("prepare", "--job", write_job(), "--work", work.root, "--model", base, *rows)
    assert run(*prepare) == 0
    Path(rows[1]).write_text('{"prompt": "a"}\n')
    assert run(*prepare) == 1
    assert "Row 1: `completion` is missing" in capsys.readouterr().err
    assert work.report_html.exists()
    assert not work.dataset_train.exists()


def test_a_base_on_the_hub_is_planned_as_if_it_were_here(
    write_job: Write, rows: tuple[str, ...], base: Path, hub: HubStandIn, capsys: Capture
) -> None:
    job = write_job(baseModel={"source": "hf://org/base", "revision": COMMIT})
    assert planned(capsys, "--job", job, *rows) == planned(capsys, "--job", job, "--model", base, *rows)
    assert "tokenizer.json" in hub.downloads


@pytest.mark.slow  # huggingface_hub tries for 20 s
def test_a_hub_that_does_not_answer_is_named(
    write_job: Write, rows: tuple[str, ...], hub: HubStandIn, capsys: Capture
) -> None:
    hub.stop()
    job = write_job(baseModel={"source": "hf://org/base", "revision": COMMIT})
    assert run("plan", "--job", job, *rows) == 64
    assert f"hf://org/base at {hub.address} cannot be reached" in capsys.readouterr().err


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("the rows are in the cluster", {}, "", "configmap://rows/train.jsonl is in the cluster"),
    ("the base is in the cluster", {}, "ROWS", "pvc://models/tiny is in the cluster"),
    ("no GPU", {"resources": {"gpusPerNode": 0}}, "", "name it with --gpu NAME"),
    ("a GPU without a size", {}, "--gpu-types TABLE --gpu empty", "name it with --gpu NAME"),
    ("an unknown GPU", {}, "--gpu-types TABLE --gpu h1", "The GPU h1 is none of empty, h200, small"),
    ("a GPU for a job without", {"resources": {"gpusPerNode": 0}}, "--gpu L4", "--gpu is for a job on GPUs; add --gpus N"),
    ("a price of no GPU", {"resources": {}}, "--price-per-hour 2", "--price-per-hour needs --gpu NAME"),
    ("a table for no GPU", {"resources": {}}, "--gpu-types TABLE", "--gpu-types needs --gpu NAME"),
    ("a flag that the job says", {}, "--rank 3", "--rank is said by the job"),
    ("a misspelt field", {"datset": {}}, "", "datset: there is no such field; correct its name"),
    ("a field of the other method", {"method": "Full", "lora": {"rank": 8}}, "", "`lora` belongs to methods LoRA and QLoRA"),
    ("a wrong value", {"training": {"epochs": 99}}, "", "training.epochs: Input should be less than or equal to 25"),
    ("no evaluation", {"evaluation": None}, "", "set spec.evaluation.dataset and graders"),
    ("another currency", {"budget": {"limit": "5", "currency": "EUR"}}, "--gpu-types TABLE",
     "spec.budget is in EUR, the price of h200 in USD"),
    ("an unpinned base", {"baseModel": {"source": "hf://a/b"}}, "", "needs `revision`"),
    ("no training rows", {"dataset": None}, "", "dataset: Field required"),
    ("another base", {"baseModel": {"source": "pvc://models/tiny", "fingerprint": "sha256:" + "0" * 64}}, "ROWS --model BASE",
     "pvc://models/tiny has the fingerprint sha256:"),
    ("a base that is a file", {}, "ROWS --model TABLE", "is no folder; give the base model's folder"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "flags", "text"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG]
)
def test_a_wrong_question_ends_with_64_and_says_what_to_do(
    changes: dict[str, Any], flags: str, text: str, write_job: Write, rows: tuple[str, ...], table: Path, base: Path, capsys: Capture
) -> None:  # fmt: skip
    paths = {"TABLE": str(table), "BASE": str(base)}
    words = [paths.get(word, word) for word in flags.split() if word != "ROWS"]
    given = [*words, *(rows if "ROWS" in flags else ())]
    assert run("plan", "--job", write_job(**changes), *given) == 64
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("kind: [", "is no YAML"),
        ("kind: Pod", "holds 0 objects of kind FineTuneJob"),
        ("{apiVersion: finetune.dev/v1alpha1, kind: FineTuneJob}", "spec is missing"),
        ("{apiVersion: finetune.dev/v1alpha1, kind: FineTuneJob, kind: FineTuneJob}", "kind is there twice"),
        ("[" * 5000, "is no YAML"),
        (None, "cannot be read (No such file or directory)"),
    ],
    ids=["broken", "another kind", "no spec", "a key twice", "deeply nested", "no file"],
)
def test_a_file_that_is_no_job_is_refused(
    content: str | None, text: str, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_text(content)
    assert run("plan", "--job", path) == 64
    assert text in capsys.readouterr().err


def test_a_job_may_go_without_evaluation_when_it_says_so(
    write_job: Write, rows: tuple[str, ...], base: Path, capsys: Capture
) -> None:
    job = write_job(evaluation={"accept": ["EvalMissing"]})
    code, _ = planned(capsys, "--job", job, "--model", base, *rows[:2])
    assert code == 0
    assert run("plan", "--job", job, "--model", base, *rows) == 64
    assert "--holdout stands in for evaluation.dataset" in capsys.readouterr().err


def test_flags_of_a_laptop_do_nothing_in_a_pod_and_are_refused_there(
    write_job: Write, capsys: Capture
) -> None:
    assert run("prepare", "--job", write_job(), "--gpus", 2) == 64
    assert "--gpus needs --work DIR" in capsys.readouterr().err
