"""What report.py is told: defaults, relative paths, refusals."""

from __future__ import annotations

import os

import pytest

from attacks.report_options import ReportOptions, absolute_paths
from pipeline.options import JOB_VARIABLE


def test_the_report_goes_into_the_study_unless_told_otherwise() -> None:
    assert ReportOptions("/a/study/").folder == "/a/study/report"
    assert ReportOptions("s3://b/study").folder == "s3://b/study/report"
    assert ReportOptions("/a/study", "/x").folder == "/x"


def test_local_paths_are_made_absolute_and_uris_stay() -> None:
    found = absolute_paths(ReportOptions("study", "out"), {})
    assert (found.study, found.out) == (os.path.abspath("study"), os.path.abspath("out"))
    assert absolute_paths(ReportOptions("s3://b/x"), {JOB_VARIABLE: "1"}).folder == "s3://b/x/report"


@pytest.mark.parametrize("options", [ReportOptions("study"), ReportOptions("/study", "out")])
def test_relative_paths_are_refused_inside_a_job(options: ReportOptions) -> None:
    with pytest.raises(ValueError, match="throw-away copy"):
        absolute_paths(options, {JOB_VARIABLE: "1"})


def test_empty_ones_are_refused() -> None:
    for study, out, flag in (("", None, "--study"), ("x", "", "--out")):
        with pytest.raises(ValueError, match=f"expected {flag}"):
            absolute_paths(ReportOptions(study, out), {})
