"""The report of the demo's own runs: its record, its words, its files and titles.

conftest.py starts it with the first test, so that the other tests run meanwhile.
"""

import json
import re
from pathlib import Path

from golden_files import (
    WRITING,
    check_fitted,
    check_json,
    check_text,
    machine,
    read_golden,
    scrub,
    usual_places,
    without,
)

STUDY = "sweeps.demo"
PAGE = re.compile(r"/experiments/\d+/")  # numbered by MLflow


def test_the_record_of_a_report_holds_what_it_held(reported: Path) -> None:
    record = json.loads((reported / "reports" / STUDY / "record.json").read_text())
    check_fitted("demo-record.json", scrub(without(record, "software"), usual_places(reported)))


def test_a_report_prints_what_it_printed(reported: Path) -> None:
    text = PAGE.sub("/experiments/ID/", (reported / "printed.txt").read_text())
    here = WRITING or read_golden("demo-record.json")["machine"] == machine("numpy", "scipy")
    words = scrub(text, usual_places(reported))
    check_text("demo-report.txt", words, exact=False, numbers=here)  # many are of refits


def test_a_report_writes_the_files_and_titles_that_it_wrote(reported: Path) -> None:
    folder = reported / "reports" / STUDY
    page = (folder / "report.html").read_text()
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    titles = re.findall(r"<h[1-3][^>]*>(.*?)</h[1-3]>", page)
    check_json("demo-report-files.json", {"files": files, "titles": titles})
