"""The report's two files in the workspace."""

import logging

from pydantic import ValidationError

from finetune_trainer.files import write_atomically
from finetune_trainer.report.document import Report
from finetune_trainer.report.html import report_html
from finetune_trainer.workspace import Workspace

_log = logging.getLogger(__name__)


def write_reports(workspace: Workspace, report: Report) -> None:
    """The report for programs and for people."""
    write_atomically(workspace.report_json, report.to_json())
    write_atomically(workspace.report_html, report_html(report))


def read_report(workspace: Workspace) -> Report | None:
    """What was written last; None, with a line in the log, where it is missing or of another version."""
    try:
        return Report.model_validate_json(workspace.report_json.read_bytes())
    except (OSError, ValidationError) as error:
        _log.warning("the workspace has no report that can be read (%s)", type(error).__name__)
        return None
