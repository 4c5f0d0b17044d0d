"""What `pipeline/train.py` is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch

from models.arithmetic import Precision
from models.registry import build, field_names
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
    require_order,
    require_seeds,
)
from pipeline.options import absolute_folder, absolute_path
from stores.split_reader import default_group_size

OWN = ("width", "classes", "video_dim")  # fields of a model's config that --width and the store decide


@dataclass(frozen=True)
class TrainOptions:
    """Train a recogniser from a feature store. The same command again goes on where the last one ended."""

    store: str
    """The feature store: a directory or any fsspec URI."""
    model: str
    """csn, crnn, resnet50, video, early, mid1, mid2 or late; `python -m models` says what each costs."""
    train_split: Several
    """Required. Split to train on; may be given several times."""
    valid_split: Several
    """Required. Split to choose the best checkpoint by; may be given several times."""
    out: str
    """The run's folder: checkpoints, metrics, curves. A directory or any fsspec URI."""

    columns: Several = ()
    """A column by its full name, where the store has several of a feature; `python -m stores status` lists them."""
    width: float = 1.0
    """Multiplies the model's channels: 0.125 trains on a laptop."""
    set: Several = ()
    """A field of the model's config, NAME=VALUE (dropout=0.3, video_transform=raw …); may be given several times."""

    steps: int = 25_000
    """Optimiser steps of the whole run."""
    batch_size: int = 300
    """Clips of a step, over all workers together."""
    group_size: int | None = None
    """Clips that go through the model at once: BatchNorm's batch. Default: the batch's largest divisor up to 50."""
    seed: int = 15_213
    """Of weights, order, dropout and augmentation."""
    learning_rate: float = 4e-4
    """Adam's, at its highest."""
    warmup: int | None = None
    """Steps over which it rises; then it falls linearly to 0. Default: 1000, at most a tenth of the steps."""
    order: str = "balanced"
    """balanced (a clip of each class in turn), uniform, windowed (for remote stores) or sequential."""
    mixup: float = 0.0
    """α of mixup; 0 for none, as in the paper."""
    spec_augment: bool = False
    """Leave out stripes of the log-mels in training; not in the paper."""
    normalizer: str | None = None
    """A .npz of mean and std per mel bin on disk (TALNet's mu and sigma will do). Default: the training splits' own."""
    normalize_video: bool = False
    """Normalise embeddings too, by the training splits' mean and std; the paper takes them as they are."""
    precision: Arithmetic = "auto"
    strict: Strict = False

    evaluate_every: int = 1_000
    """Steps between evaluations; each leaves a checkpoint."""
    workers: Workers = None
    gpu: Gpu = None
    cpus_per_worker: CpusPerWorker = 2
    reader_threads: ReaderThreads = 1

    def __post_init__(self) -> None:
        require_counts(self, "steps", "batch_size", "group_size", "evaluate_every")
        require_seeds(self)
        require(self, "mixup", 0 <= self.mixup < math.inf, "0 or more")
        require(self, "learning_rate", 0 < self.learning_rate < math.inf, "above 0")
        require(self, "warmup", self.warmup is None or 0 <= self.warmup <= self.steps, "0 to --steps")
        require(self, "group_size", self.batch_size % self.group == 0, f"a divisor of the batch, {self.batch_size}")
        require_distinct(self, "train_split", "valid_split")
        require(self, "precision", self.precision in get_args(Precision), ", ".join(get_args(Precision)))
        require_order(self)
        self.model_fields()

    @property
    def group(self) -> int:
        """Clips of a group."""
        return self.group_size or default_group_size(self.batch_size)

    @property
    def groups_per_step(self) -> int:
        """Groups that a step's batch is cut into."""
        return self.batch_size // self.group

    @property
    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises."""
        return min(1000, self.steps // 10) if self.warmup is None else self.warmup

    def model_fields(self) -> dict[str, Any]:
        """What `--width` and `--set` say of the model's config.

        Raises:
            ValueError: no such model or field, or a value that it cannot have.
        """
        found: dict[str, Any] = {"width": self.width}
        for text in self.set:
            name, equals, value = text.partition("=")
            known = [field for field in field_names(self.model) if field not in OWN]
            if not equals or name not in known:
                raise ValueError(f"expected --set NAME=VALUE with a name of {', '.join(known) or 'none'}; got {text!r}")
            found[name] = _value(value)
        with torch.device("meta"):  # checks names and values without a weight
            build(self.model, **found)
        return found

    def decisive(self) -> dict[str, Any]:
        """What decides the run's result, as JSON: a folder holds the run of one such set only."""
        return {**decisive(self, ("evaluate_every",)), "group_size": self.group, "warmup": self.warmup_steps}


def absolute_paths(options: TrainOptions, environment: dict[str, str] | None = None) -> TrainOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away;
            a normalizer that is not on disk.
    """
    if options.normalizer is not None and "://" in options.normalizer:
        raise ValueError(
            f"expected --normalizer of a file on disk, got {options.normalizer}: copy it to where every worker sees it"
        )
    given = options.normalizer
    return replace(
        options,
        store=absolute_folder("--store", options.store, environment),
        out=absolute_folder("--out", options.out, environment),
        normalizer=None if given is None else absolute_path("--normalizer", given, environment),
    )


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
