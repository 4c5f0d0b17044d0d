"""The sample study and its report, made once for all tests of the report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from study_folder import make_minimal, make_study

from attacks.document import Document, Table
from attacks.facts import Study
from attacks.report_content import compose
from attacks.study_reader import read_study
from stores.storage import Storage

_KEEP: list[tempfile.TemporaryDirectory[str]] = []  # until the process ends


@dataclass(frozen=True)
class Sample:
    """A study's folder, as it is read, and its report."""

    root: Path
    study: Study
    document: Document

    def table(self, name: str) -> Table:
        """A table of the report."""
        return next(table for table in self.document.tables() if table.name == name)


@cache
def whole() -> Sample:
    """Four models with two seeds, everything there. Not to be written to."""
    return _sample(make_study)


@cache
def minimal() -> Sample:
    """One trained model, nothing else. Not to be written to."""
    return _sample(make_minimal)


def read(root: Path) -> Sample:
    """The report of any study's folder."""
    storage = Storage(str(root))
    study = read_study(storage)
    return Sample(root, study, compose(study, storage))


def _sample(make: object) -> Sample:
    _KEEP.append(tempfile.TemporaryDirectory(prefix="avlens-study-"))
    root = Path(_KEEP[-1].name)
    make(root)  # type: ignore[operator]
    return read(root)


def rows_of(table: Table) -> list[dict[str, str]]:
    """A table's rows by column."""
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]
