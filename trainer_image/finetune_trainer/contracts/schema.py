"""JSON Schemas of the documents, for the contract tests of the packages that read or write them."""

from typing import Any

from finetune_trainer.contracts.job import Job
from finetune_trainer.contracts.manifest import AdapterManifest
from finetune_trainer.contracts.result import Result


def json_schemas() -> dict[str, dict[str, Any]]:
    """The schema of each document by its name: job, result, manifest, report."""
    # Imported here because the report's parts take their base class from this package.
    from finetune_trainer.report.document import Report

    return {
        "job": Job.model_json_schema(by_alias=True),
        "result": Result.model_json_schema(by_alias=True),
        "manifest": AdapterManifest.model_json_schema(by_alias=True),
        "report": Report.model_json_schema(by_alias=True),
    }
