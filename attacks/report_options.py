"""What `attacks/report.py` is told."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.options import absolute_folder


@dataclass(frozen=True)
class ReportOptions:
    """Write a study's report: the paper's tables with the paper's numbers beside ours, figures, controls, and what
    the study says of the paper's conclusions. Whatever the study lacks is said to be missing."""

    study: str
    """The study's folder: a directory or any fsspec URI."""
    out: str | None = None
    """Where the report goes. Default: report, in the study's folder."""

    @property
    def folder(self) -> str:
        """Where the report goes."""
        return f"{self.study.rstrip('/')}/report" if self.out is None else self.out


def absolute_paths(options: ReportOptions, environment: dict[str, str] | None = None) -> ReportOptions:
    """The same options with local paths made absolute.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """
    out = None if options.out is None else absolute_folder("--out", options.out, environment)
    return replace(options, study=absolute_folder("--study", options.study, environment), out=out)
