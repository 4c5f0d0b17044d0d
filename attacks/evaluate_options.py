"""What `attacks/evaluate.py` is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pipeline.job_options import (
    Arithmetic,
    CpusPerWorker,
    Gpu,
    ReaderThreads,
    Several,
    Strict,
    Workers,
    decisive,
    require,
    require_counts,
    require_distinct,
    require_seeds,
)
from pipeline.options import absolute_folder, absolute_path


@dataclass(frozen=True)
class EvaluateOptions:
    """Score checkpoints on a split: clean, under perturbations, under noise of their norms, and with other sounds.
    Every perturbation is tried on every checkpoint. The same command again goes on where the last one ended."""

    store: str
    """The feature store: a directory or any fsspec URI."""
    checkpoint: Several
    """Required. A checkpoint of pipeline/train.py: a path or any fsspec URI. May be given several times."""
    split: Several
    """Required. Split to score; may be given several times, for one set of clips."""
    out: str
    """The evaluation's folder. A directory or any fsspec URI."""
    attack: Several = ()
    """Folder of a finished attack; may be given several times."""
    floor: str | None = None
    """A video-only checkpoint: what a model of both can fall back on. Default for late fusion: its own video branch."""

    noise_draws: int = 20
    """Draws of random noise with each perturbation's norm and mask."""
    permutations: int = 200
    """Shuffles of the labels that chance is measured with."""
    seed: int = 15_213
    """Of the sounds' shuffle and the labels'."""
    group_size: int = 50
    """Clips that go through the model at once."""
    precision: Arithmetic = "float32"
    strict: Strict = False

    workers: Workers = None
    gpu: Gpu = None
    cpus_per_worker: CpusPerWorker = 2
    reader_threads: ReaderThreads = 1

    def __post_init__(self) -> None:
        require_counts(self, "permutations", "group_size")
        require(self, "noise_draws", self.noise_draws >= 0, "0 or more")
        require_seeds(self)
        require_distinct(self, "checkpoint", "split")

    def decisive(self) -> dict[str, Any]:
        """What decides the result, as JSON, but for checkpoints and perturbations, which have digests."""
        return decisive(self, ("checkpoint", "attack", "floor"))


def absolute_paths(options: EvaluateOptions, environment: dict[str, str] | None = None) -> EvaluateOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """

    def fix(flag: str, path: str) -> str:
        return absolute_path(flag, path, environment)

    return replace(
        options,
        store=absolute_folder("--store", options.store, environment),
        out=absolute_folder("--out", options.out, environment),
        checkpoint=tuple(fix("--checkpoint", path) for path in options.checkpoint),
        attack=tuple(fix("--attack", path) for path in options.attack),
        floor=None if options.floor is None else fix("--floor", options.floor),
    )
