"""What was read, for the report."""

from finetune_trainer.data.load import Loaded
from finetune_trainer.report.document import DataFile, DataSummary


def data_summary(loaded: Loaded) -> DataSummary:
    """A data set before its rows are tokenised."""
    return DataSummary(
        source=loaded.source,
        format=loaded.format,
        files=tuple(DataFile(name=name, rows=rows) for name, rows in loaded.files.items()),
        rows=loaded.count,
        digest=loaded.digest,
    )
