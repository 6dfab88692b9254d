"""Scores of slices as tables and pictures: ``summary`` reduces them, ``tables`` and ``pictures`` write them."""

from medrestore_monai.report.pictures import draw_panels
from medrestore_monai.report.summary import SliceScore, SummaryRow, findings, infinite, oracle_name, summarize
from medrestore_monai.report.tables import check_folder, markdown, new_folder, write_tables, write_times

__all__ = [
    "SliceScore",
    "SummaryRow",
    "check_folder",
    "draw_panels",
    "findings",
    "infinite",
    "markdown",
    "new_folder",
    "oracle_name",
    "summarize",
    "write_tables",
    "write_times",
]
