"""What `attacks/evaluate.py` is told."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

import tyro

from models.arithmetic import Precision
from pipeline.options import absolute_path

# What may be another when an evaluation goes on: it decides how fast, or where things are, not what comes out.
FREE = ("out", "store", "checkpoint", "attack", "floor", "workers", "cpus_per_worker", "reader_threads", "gpu")
Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class EvaluateOptions:
    """Score checkpoints on a split: clean, under perturbations, under noise of their norms, and with other sounds.
    Every perturbation is tried on every checkpoint. The same command again goes on where the last one ended."""

    store: str
    """The feature store: a directory or any fsspec URI."""
    checkpoint: Several
    """A checkpoint of pipeline/train.py: a path or any fsspec URI. May be given several times."""
    split: Several
    """Split to score; may be given several times, for one set of clips."""
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
    precision: Precision = "float32"
    """Arithmetic: float32, float64, bfloat16 autocast, or auto, which is bfloat16 on GPUs that have it."""
    strict: bool = False
    """A damaged shard is an error; else its clips are left out, named and counted."""

    workers: int | None = None
    """Data-parallel workers. Default: one per GPU of the cluster, or one on CPUs. The result does not depend on it."""
    gpu: bool | None = None
    """A GPU for each worker. Default: where the cluster has any."""
    cpus_per_worker: int = 2
    """CPUs, and torch threads, of a worker without a GPU."""
    reader_threads: int = 1
    """Threads that read ahead in each worker."""

    def __post_init__(self) -> None:
        for name in ("permutations", "group_size", "workers", "cpus_per_worker"):
            self._require(name, (value := getattr(self, name)) is None or value >= 1, "at least 1")
        for name in ("noise_draws", "reader_threads", "seed"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("checkpoint", "split"):
            values = getattr(self, name)
            self._require(name, 0 < len(values) == len(set(values)), "one or more values, each once")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"expected --{name.replace('_', '-')} of {expected}, got {getattr(self, name)}")

    def decisive(self) -> dict[str, Any]:
        """What decides the result, as JSON, but for checkpoints and perturbations, which have digests."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in FREE}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def absolute_paths(options: EvaluateOptions, environment: dict[str, str] | None = None) -> EvaluateOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """

    def fix(flag: str, path: str) -> str:
        return absolute_path(flag, path, environment)

    return replace(
        options,
        store=fix("--store", options.store),
        out=fix("--out", options.out),
        checkpoint=tuple(fix("--checkpoint", path) for path in options.checkpoint),
        attack=tuple(fix("--attack", path) for path in options.attack),
        floor=None if options.floor is None else fix("--floor", options.floor),
    )
