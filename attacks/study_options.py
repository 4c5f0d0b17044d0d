"""What `attacks/study.py` is told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from attacks.study_config import Scale, Study, preset
from pipeline.job_options import CpusPerWorker, Integers, Several, require, require_seeds
from pipeline.options import absolute_folder


@dataclass(frozen=True)
class StudyOptions:
    """Train, attack and evaluate all that a study names, and write its report. The same command again does what is
    missing."""

    store: str
    """The feature store: a directory or any fsspec URI."""
    out: str
    """The study's folder. A directory or any fsspec URI."""
    preset: Literal["icassp2021"] | None = None
    """A study that ships: icassp2021 is the paper's."""
    scale: Scale = "full"
    """Of the preset: full, laptop (an eighth of the width, two seeds) or demo (two models, one seed)."""
    config: str | None = None
    """A study as JSON instead of a preset; --print-config shows the form."""
    print_config: bool = False
    """Print the study as JSON, and end."""

    seed: Integers = ()
    """Instead of the study's seeds; may be given several times."""
    train_split: Several = ()
    """Instead of the study's; may be given several times, as the following."""
    valid_split: Several = ()
    """Split that chooses the best checkpoints."""
    fit_split: Several = ()
    """Split that gives perturbations their gradients."""
    select_split: Several = ()
    """Split that chooses the best perturbations."""
    report_split: Several = ()
    """Split that is reported."""

    at_once: int = 1
    """Commands that run side by side, where the cluster has room."""
    workers: int | None = None
    """Data-parallel workers of each command. Default: one per GPU of the cluster, or one on CPUs."""
    cpus_per_worker: CpusPerWorker = 2

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.config is None):
            raise ValueError("expected a study by --preset or by --config, got both or neither")
        require_seeds(self)
        for name in ("at_once", "workers", "cpus_per_worker"):
            require(self, name, (value := getattr(self, name)) is None or value >= 1, "at least 1")

    def study(self) -> Study:
        """The study that is asked for.

        Raises:
            ValueError: the file is no study, or is not there.
        """
        if self.config is None:
            assert self.preset is not None
            found = preset(self.preset, self.scale)
        else:
            try:
                found = Study.from_dict(json.loads(Path(self.config).read_text()))
            except (OSError, ValueError) as error:
                raise ValueError(f"expected a study as JSON at {self.config}: {error}") from None
        uses = ("train", "valid", "fit", "select", "report")
        given = {use: getattr(self, f"{use}_split") for use in uses}
        splits = {**found.splits, **{use: value for use, value in given.items() if value}}
        return replace(found, splits=splits, seeds=self.seed or found.seeds)

    @property
    def job_flags(self) -> list[str]:
        """For every command."""
        workers = [] if self.workers is None else ["--workers", str(self.workers)]
        return [*workers, "--cpus-per-worker", str(self.cpus_per_worker)]


def absolute_paths(options: StudyOptions, environment: dict[str, str] | None = None) -> StudyOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """
    return replace(
        options,
        store=absolute_folder("--store", options.store, environment),
        out=absolute_folder("--out", options.out, environment),
    )
