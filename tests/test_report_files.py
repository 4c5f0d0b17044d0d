"""A report's files: all of them, listed, and what an earlier report has left is cleared, nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_samples import minimal, whole

from attacks.report_files import LIST, files_of, write_report
from stores.storage import Storage


def test_files_are_what_the_list_says(tmp_path: Path) -> None:
    names = write_report(minimal().document, Storage(str(tmp_path)))
    listed = json.loads((tmp_path / LIST).read_text())["files"]
    assert sorted(names) == sorted(listed)
    for name, digest in listed.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert {"report.html", "report.md", "tables/numbers.csv", "tables/table-1.csv"} <= set(names)


def test_every_picture_and_table_has_its_file() -> None:
    files = files_of(whole().document)
    assert files["figures/curves-l2-1.svg"].startswith(b"<?xml") and files["figures/figure-2-1-1.png"].startswith(
        b"\x89PNG"
    )
    assert len([name for name in files if name.startswith("tables/")]) == len(whole().document.tables()) + 1


def test_what_an_earlier_report_left_goes_and_nothing_else(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    write_report(minimal().document, storage)
    (tmp_path / "tables/mine.csv").write_text("mine")
    sections = minimal().document.sections
    write_report(replace(minimal().document, sections=sections[:1]), storage)
    left = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert left == ["coverage.csv", "mine.csv", "numbers.csv"]


@pytest.mark.parametrize(
    "text", ["rubbish", "[]", '{"files": {"../keep.csv": "", "keep.csv": "", "tables/..": "", "x/y": ""}}']
)
def test_a_list_that_lies_removes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "keep.csv").write_text("x")
    out = tmp_path / "out"
    out.mkdir()
    (out / "keep.csv").write_text("x")
    (out / LIST).write_text(text)
    write_report(minimal().document, Storage(str(out)))
    assert (out / "keep.csv").exists() and (tmp_path / "keep.csv").exists()
