#!/usr/bin/env python
"""Entry: a study's folder → its report as a page, as Markdown and as CSV."""

from __future__ import annotations

import logging
import sys

import tyro

from attacks.report_content import compose
from attacks.report_files import write_report
from attacks.report_options import ReportOptions, absolute_paths
from attacks.study_reader import read_study
from pipeline.summary import EXIT_INTERNAL, EXIT_OK, EXIT_USAGE
from stores.storage import Storage, StorageError


def main() -> int:
    """Writes the report and returns the exit code: 0 done, 2 usage, 3 the study or the report is out of reach."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        options = absolute_paths(tyro.cli(ReportOptions, prog="report.py"))
        storage = Storage(options.study)
        study = read_study(storage)
    except ValueError as error:
        print(f"report: {error}", file=sys.stderr)
        return EXIT_USAGE
    except StorageError as error:
        print(f"report: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    try:
        document = compose(study, storage)
        out = Storage(options.folder)
        names = write_report(document, out)
    except StorageError as error:
        print(f"report: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    for verdict in document.verdicts:
        print(f"{verdict.number}. {verdict.question} {verdict.word}. {verdict.reason}".rstrip())
    for text in document.warnings:
        print(f"warning: {text}")
    print(f"{len(names)} files; open {out.url('report.html')}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
