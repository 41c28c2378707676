"""Exports: what MLflow and a collector are sent, once, and that no failure of theirs ends a run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluation.traces import trace
from finetune_trainer.exporting.connection import Connection, ExportFailed
from finetune_trainer.exporting.export import Published, export
from finetune_trainer.exporting.mlflow import send_run
from finetune_trainer.exporting.open_telemetry import send_spans, span
from finetune_trainer.workspace import Workspace
from tests.unit.trainer_evaluation.builders import PRIMARY, answers, pair
from tests.unit.trainer_evaluation.test_card import DIGEST, make_job, make_manifest
from tests.unit.trainer_exporting.receiver import Answer, Receiver
from tests.unit.trainer_report.examples import evaluation

Serve = Callable[[Answer], Receiver]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts receivers and stops them."""
    running: list[Receiver] = []

    def start(answer: Answer) -> Receiver:
        running.append(Receiver(answer))
        return running[-1]

    yield start
    for receiver in running:
        receiver.stop()


class TrackingServer:
    """What MLflow's REST API answers, with the experiments and runs that it has."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: list[dict[str, Any]] = []
        self.metrics: list[dict[str, Any]] = []

    def __call__(self, path: str, document: dict[str, Any]) -> tuple[int, Any]:
        match path.removeprefix("/api/2.0/mlflow/"):
            case "experiments/get-by-name":
                known = list(self.experiments.values())
                return (
                    (200, {"experiment": {"experiment_id": known[0]}})
                    if known
                    else (404, {"error_code": "x"})
                )
            case "experiments/create":
                self.experiments[document["name"]] = "7"
                return 200, {"experiment_id": "7"}
            case "runs/search":
                return 200, {"runs": self.runs} if self.runs else {}
            case "runs/create":
                self.runs.append({"info": {"run_id": "r1"}, "data": document})
                return 200, {"run": self.runs[0]}
            case "runs/log-batch":
                self.metrics += document.get("metrics", [])
                return 200, {}
            case _:
                return 200, {}


def exporting_job(**export_spec: Any) -> Any:
    """A job of the publish stage that exports."""
    return make_job(
        evaluation={
            "dataset": {"source": "configmap://reviews/holdout.jsonl"},
            "graders": [{"name": PRIMARY, "type": "ExactMatch"}],
            "export": export_spec,
        }
    )


def to_mlflow(receiver: Receiver) -> None:
    """Send the example."""
    job = exporting_job(mlflow={"trackingUri": receiver.address, "experiment": "reviews"})
    with Connection(receiver.address + "/", "secret") as connection:
        send_run(connection, job.spec.evaluation.export.mlflow, job, make_manifest(), DIGEST, evaluation())


def test_mlflow_gets_settings_scores_and_curves_in_an_experiment_that_is_made(serve: Serve) -> None:
    server = TrackingServer()
    receiver = serve(server)
    to_mlflow(receiver)
    assert server.experiments == {"reviews": "7"}
    assert receiver.tokens == {"Bearer secret"}
    values = {(metric["key"], metric["step"]): metric["value"] for metric in server.metrics}
    assert (values["fields/base", 0], values["fields/tuned", 0], values["delta/score", 0]) == (
        0.141,
        0.683,
        0.542,
    )
    assert values["rivals/shots", 0] == 0.31
    losses = evaluation().curves
    assert losses is not None
    assert [values["train/loss", step] for step in (1, 222)] == [losses.loss[0], losses.loss[-1]]
    about = next(document for path, document in receiver.seen if path.endswith("log-batch"))
    assert {"key": "epochs", "value": "3"} in about["params"]
    assert {"key": "finetune.digest", "value": DIGEST} in about["tags"]
    assert receiver.seen[-1][1]["status"] == "FINISHED"


def test_an_attempt_after_an_interruption_goes_on_with_the_run_of_the_first(serve: Serve) -> None:
    server = TrackingServer()
    receiver = serve(server)
    to_mlflow(receiver)
    to_mlflow(receiver)
    assert len(server.runs) == 1
    searches = [document for path, document in receiver.seen if path.endswith("runs/search")]
    assert {search["filter"] for search in searches} == {"tags.`finetune.uid` = 'u'"}


def test_a_collector_gets_a_span_for_each_answer_with_the_same_ids_each_time(serve: Serve) -> None:
    receiver = serve(lambda path, document: (200, {"partialSuccess": {}}))
    pairs = [pair(f"r{place}", 0.0, 1.0) for place in range(60)]
    for _ in range(2):
        with Connection(receiver.address, None) as connection:
            send_spans(connection, exporting_job(), answers(pairs))
    assert {path for path, _ in receiver.seen} == {"/v1/traces"}
    assert receiver.tokens == {None}
    spans = [
        each
        for _, document in receiver.seen
        for each in document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    ]
    assert [len(document["resourceSpans"][0]["scopeSpans"][0]["spans"]) for _, document in receiver.seen] == [
        100, 20, 100, 20,
    ]  # fmt: skip
    assert len({each["spanId"] for each in spans}) == 120
    assert len({each["traceId"] for each in spans}) == 60


def test_a_span_has_the_form_that_otlp_asks_for() -> None:
    _, tuned = answers([pair("a", 0.0, 1.0)])
    made = span("u", trace(tuned), 10**18)
    assert (len(made["traceId"]), len(made["spanId"])) == (32, 16)
    assert int(made["endTimeUnixNano"]) - int(made["startTimeUnixNano"]) == 250_000_000
    named = {attribute["key"]: attribute["value"] for attribute in made["attributes"]}
    assert named["gen_ai.usage.output_tokens"] == {"intValue": "3"}
    assert named["gen_ai.evaluation.score.value"] == {"doubleValue": 1.0}
    assert named["gen_ai.response.finish_reasons"] == {"arrayValue": {"values": [{"stringValue": "stop"}]}}
    assert "error.type" not in named


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param((500, b"no disk"), "HTTP 500: no disk", id="an error of the server"),
        pytest.param((403, {"error": "no"}), "HTTP 403", id="no permission"),
        pytest.param(
            (500, b"\x1b[2J no disk"), "HTTP 500: .\\[2J no disk", id="an error that steers a terminal"
        ),
        pytest.param((200, b"[" * 100_000), "is not JSON", id="a document without an end"),
        pytest.param((200, b" " * (2 << 20)), "larger than 1 MiB", id="an answer too large"),
        pytest.param((500, b"x" * (2 << 20)), "larger than 1 MiB", id="an error too large"),
        pytest.param((200, b"<html>"), "is not JSON", id="a web page"),
        pytest.param((200, []), "no JSON object", id="another document"),
        pytest.param((200, {"x": 1}), "not those of an MLflow tracking server", id="another API"),
    ],
)
def test_what_a_server_answers_wrongly_is_told(serve: Serve, answer: tuple[int, Any], told: str) -> None:
    receiver = serve(lambda path, document: answer)
    with pytest.raises(ExportFailed, match=told):
        to_mlflow(receiver)


def test_everything_together_has_a_time_limit(serve: Serve) -> None:
    receiver = serve(lambda path, document: (200, {}))
    times = iter([0.0, 1.0, 2.0, 500.0])
    with Connection(receiver.address, None, lambda: next(times)) as connection:
        connection.post("/a", {})
        with pytest.raises(ExportFailed, match="longer than 180 s"):
            connection.post("/b", {})


def test_an_answer_that_does_not_end_has_the_same_limit(serve: Serve) -> None:
    receiver = serve(lambda path, document: (200, {}))
    times = iter([0.0, 1.0, 500.0])
    with (
        Connection(receiver.address, None, lambda: next(times)) as connection,
        pytest.raises(ExportFailed, match="longer than 180 s"),
    ):
        connection.post("/a", {})


def test_a_target_that_fails_is_told_and_the_other_one_is_tried(tmp_path: Path) -> None:
    job = exporting_job(
        mlflow={"trackingUri": "http://127.0.0.1:9", "experiment": "reviews"},
        openTelemetry={"endpoint": "http://127.0.0.1:9"},
    )
    told = export(Published(job, Workspace(tmp_path), make_manifest(), DIGEST))
    assert told == [
        "The evaluation could not be sent to MLflow: the workspace holds no evaluation any more.",
        "The evaluation could not be sent to OpenTelemetry: the workspace holds no graded answers any more.",
    ]


def test_a_job_that_names_no_target_sends_nothing(tmp_path: Path) -> None:
    assert export(Published(make_job(), Workspace(tmp_path), make_manifest(), DIGEST)) == []
