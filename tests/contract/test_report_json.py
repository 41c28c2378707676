"""report.json: what is written is what its schema promises, and is read back unchanged."""

import json
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from finetune_trainer.contracts import json_schemas
from finetune_trainer.report.document import Report
from tests.unit.trainer_report.examples import clean, evaluated, full, refused

FINDING = {"rule", "number", "severity", "count", "rows", "message", "dataset", "overridden"}
MEMORY = {
    "fits", "tight", "method", "gpu", "gpus", "peakGiB", "limitGiB", "gpuMemoryGiB", "breakdown", "hostGiB", "chosen", "suggestion",
    "measuredPeakGiB",
}  # fmt: skip


@pytest.mark.parametrize(
    "report", [clean(), refused(), full(), evaluated()], ids=["clean", "refused", "full", "evaluated"]
)
def test_a_report_meets_its_schema_and_survives_the_way_through_json(report: Report) -> None:
    document = json.loads(report.to_json())
    jsonschema.validate(document, json_schemas()["report"])
    assert Report.model_validate(document) == report


def test_the_names_that_readers_rely_on() -> None:
    document = json.loads(full().to_json())
    assert (document["schemaVersion"], document["kind"]) == (1, "Report")
    assert set(document["findings"][0]) == FINDING
    assert set(document["memory"]) == MEMORY
    assert document["memory"]["chosen"]["zeroStage"] == 0
    assert document["estimate"]["savings"] == {"perMonth": 1500, "breakEvenDays": 0.05}


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"schemaVersion": 2},
        {"duplicates": {"exactRows": -1, "exactGroups": 0, "nearRows": 0, "nearGroups": 0}},
    ],
    ids=["an unknown field", "another version", "a negative count"],
)
def test_what_the_schema_does_not_know_is_refused_on_both_sides(change: dict[str, Any]) -> None:
    document = json.loads(clean().to_json()) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schemas()["report"])
    with pytest.raises(ValidationError):
        Report.model_validate(document)


def test_a_histogram_whose_edges_do_not_surround_its_counts_is_refused() -> None:
    document = json.loads(full().to_json())
    document["lengths"]["histogram"]["edges"].pop()
    with pytest.raises(ValidationError, match="one more than counts"):
        Report.model_validate(document)
