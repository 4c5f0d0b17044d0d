"""What `attacks/universal_pgd.py` is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Annotated, Any, Literal

import tyro

from attacks.masks import Mask
from attacks.norms import Norm, Scope
from attacks.objectives import Objective
from attacks.perturbation import Rule, Spec
from models.arithmetic import Precision
from pipeline.options import absolute_path
from stores.split_reader import default_group_size

# What may be another when a run goes on: it decides how fast, not what comes out.
FREE = ("out", "store", "checkpoint", "workers", "cpus_per_worker", "reader_threads", "gpu", "checkpoint_every")
DEFAULTS = {"norm": "2", "epsilon": 0.3, "scope": "clip", "rule": "projected", "objective": "bce", "seed": 15_213}
Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
Floats = Annotated[tuple[float, ...], tyro.conf.UseAppendAction]
Integers = Annotated[tuple[int, ...], tyro.conf.UseAppendAction]
Norms = Annotated[tuple[Norm, ...], tyro.conf.UseAppendAction]
Scopes = Annotated[tuple[Scope, ...], tyro.conf.UseAppendAction]
Rules = Annotated[tuple[Rule, ...], tyro.conf.UseAppendAction]
Objectives = Annotated[tuple[Objective, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class AttackOptions:
    """Make universal perturbations of the sound against a checkpoint. The same command again goes on where the last
    one ended. Flags that may be given several times make one perturbation for each combination, all in one pass."""

    store: str
    """The feature store: a directory or any fsspec URI."""
    checkpoint: str
    """A checkpoint of pipeline/train.py (best.pt): a path or any fsspec URI."""
    fit_split: Several
    """Split whose clips give the gradients; may be given several times."""
    select_split: Several
    """Split by which the best iterate is chosen; may be given several times."""
    alpha: float
    """Length of a step, in the perturbation's norm (the paper: 0.01)."""
    out: str
    """The run's folder. A directory or any fsspec URI."""

    norm: Norms = ()
    """1, 2 (default) or inf; may be given several times."""
    epsilon: Floats = ()
    """The ball's radius in normalised units (default 0.3); inf for no bound. May be given several times."""
    scope: Scopes = ()
    """What the norm is of: clip (all 25,600 numbers; default) or frame (the 64 of each). May be given several times."""
    rule: Rules = ()
    """projected (default): it stays in the ball; accumulated: as the released code does, its norm grows. May be given
    several times."""
    freq: Several = ()
    """Mel bins A:B that may be touched; may be given several times, each with every --time."""
    time: Several = ()
    """Frames A:B that may be touched; may be given several times, each with every --freq."""
    mask: Several = ()
    """The same by name (full, freq0-20, time200-400, freq0-20_time0-200), instead of --freq and --time, for masks
    that are no product. May be given several times."""
    objective: Objectives = ()
    """bce (default), rank or bounded; may be given several times."""
    bound: float = 3.0
    """For the objective bounded: the most that one clip and class counts."""
    seed: Integers = ()
    """Default 15213; may be given several times. The first one is the order's, and its perturbations start at 0; those
    of further ones start at a random point of the ball."""
    clamp: tuple[float, float] = (-2.0, 2.0)
    """For the rule accumulated: the range that it keeps attacked features in."""
    warm_start: bool = True
    """Take over a perturbation of a smaller ball or mask where it does better, so that a larger one is never worse."""

    batch_size: int = 300
    """Clips of a step, over all workers together."""
    group_size: int | None = None
    """Clips that go through the model at once. Default: the batch's largest divisor up to 50."""
    passes: float = 1.0
    """How often the fit split is gone through."""
    order: str = "uniform"
    """Order of the clips: uniform, balanced, windowed (for remote stores) or sequential."""
    evaluate_every: int | None = None
    """Steps between looks at the select split. Default: those of a pass."""
    checkpoint_every: int = 100
    """Steps between checkpoints, beside those at every evaluation."""
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
        for name, value in DEFAULTS.items():  # not the fields' own: what is given several times is added to those
            if not getattr(self, name):
                object.__setattr__(self, name, (value,))
        for name in ("batch_size", "group_size", "evaluate_every", "checkpoint_every", "workers", "cpus_per_worker"):
            self._require(name, (value := getattr(self, name)) is None or value >= 1, "at least 1")
        for name in ("alpha", "passes", "bound"):
            self._require(name, 0 < getattr(self, name) < math.inf, "above 0, and finite")
        self._require("epsilon", all(value >= 0 for value in self.epsilon), "0 or more")  # NaN is not
        self._require("reader_threads", self.reader_threads >= 0, "0 or more")
        self._require("group_size", self.batch_size % self.group == 0, f"a divisor of the batch, {self.batch_size}")
        self._require("clamp", self.clamp[0] < self.clamp[1], "a lower and a higher number")
        for name in ("fit_split", "select_split", "norm", "epsilon", "scope", "rule", "objective", "seed"):
            values = getattr(self, name)
            self._require(name, 0 < len(values) == len(set(values)), "one or more values, each once")
        self._require("mask", not (self.mask and (self.freq or self.time)), "nothing where --freq or --time is given")
        if "accumulated" in self.rule:
            self._require("objective", "rank" not in self.objective, "bce or bounded for the rule accumulated")
            self._require("epsilon", all(map(math.isfinite, self.epsilon)), "a finite size for the rule accumulated")
        if len(names := [spec.name for spec in self.specs()]) != len(set(names)):
            raise ValueError("expected masks that differ, got one of them twice")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"expected --{name.replace('_', '-')} of {expected}, got {getattr(self, name)}")

    @property
    def masks(self) -> list[Mask]:
        """The regions that may be touched."""
        if self.mask:
            return [Mask.of_name(name) for name in self.mask]
        return [Mask.parse(freq, time) for freq, time in product(self.freq or (None,), self.time or (None,))]

    def specs(self) -> list[Spec]:
        """The perturbations to be made, smaller masks and balls before larger ones."""
        return sorted(self._combinations(), key=lambda spec: (int(spec.mask.array().sum()), spec.epsilon))

    def _combinations(self) -> Iterator[Spec]:
        chosen = (self.rule, self.norm, self.scope, self.objective, self.seed, self.masks, self.epsilon)
        for rule, norm, scope, objective, seed, mask, epsilon in product(*chosen):
            # The accumulated rule has no choice of scope: it normalises by frame and compares by clip.
            if rule == "projected" or scope == self.scope[0]:
                scoped: Literal["clip", "frame"] = scope if rule == "projected" else "frame"
                yield Spec(rule, norm, scoped, objective, seed, mask, epsilon)

    @property
    def group(self) -> int:
        """Clips of a group."""
        return self.group_size or default_group_size(self.batch_size)

    @property
    def groups_per_step(self) -> int:
        """Groups that a step's batch is cut into."""
        return self.batch_size // self.group

    def decisive(self) -> dict[str, Any]:
        """What decides the result, as JSON: a folder holds the run of one such set only."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in FREE}
        values |= {"group_size": self.group, "epsilon": [str(value) for value in self.epsilon]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def absolute_paths(options: AttackOptions, environment: dict[str, str] | None = None) -> AttackOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """
    changes = {
        name: absolute_path(f"--{name}", getattr(options, name), environment) for name in ("store", "checkpoint", "out")
    }
    return replace(options, **changes)  # type: ignore[arg-type]
