"""What `attacks/universal_pgd.py` is told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any, Literal

import tyro

from attacks.masks import Mask
from attacks.norms import Norm, Scope
from attacks.objectives import Objective
from attacks.perturbation import Rule, Spec
from pipeline.job_options import (
    Arithmetic,
    CpusPerWorker,
    Floats,
    Gpu,
    Integers,
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

DEFAULTS = {"norm": "2", "epsilon": 0.3, "scope": "clip", "rule": "projected", "objective": "bce", "seed": 15_213}
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
    """Required. Split whose clips give the gradients; may be given several times."""
    select_split: Several
    """Required. Split by which the best iterate is chosen; may be given several times."""
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
    """Where a perturbation of a smaller ball or mask has done better, give that one, so that a larger one is never
    worse."""

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
    precision: Arithmetic = "float32"
    strict: Strict = False

    workers: Workers = None
    gpu: Gpu = None
    cpus_per_worker: CpusPerWorker = 2
    reader_threads: ReaderThreads = 1

    def __post_init__(self) -> None:
        for name, value in DEFAULTS.items():  # not the fields' own: what is given several times is added to those
            if not getattr(self, name):
                object.__setattr__(self, name, (value,))
        require_counts(self, "batch_size", "group_size", "evaluate_every", "checkpoint_every")
        for name in ("alpha", "passes", "bound"):
            require(self, name, 0 < getattr(self, name) < math.inf, "above 0, and finite")
        require(self, "epsilon", all(value >= 0 for value in self.epsilon), "0 or more")  # NaN is not
        require(self, "group_size", self.batch_size % self.group == 0, f"a divisor of the batch, {self.batch_size}")
        require(self, "clamp", self.clamp[0] < self.clamp[1], "a lower and a higher number")
        require_seeds(self)
        require_order(self)
        require_distinct(self, "fit_split", "select_split", "norm", "epsilon", "scope", "rule", "objective", "seed")
        require(self, "mask", not (self.mask and (self.freq or self.time)), "nothing where --freq or --time is given")
        if "accumulated" in self.rule:
            require(self, "objective", "rank" not in self.objective, "bce or bounded for the rule accumulated")
            require(self, "epsilon", all(map(math.isfinite, self.epsilon)), "a finite size for the rule accumulated")
        if len(names := [spec.name for spec in self.specs()]) != len(set(names)):
            raise ValueError("expected masks that differ, got one of them twice")

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
        values = decisive(self, ("checkpoint", "checkpoint_every"))
        return {**values, "group_size": self.group, "epsilon": [str(value) for value in self.epsilon]}


def absolute_paths(options: AttackOptions, environment: dict[str, str] | None = None) -> AttackOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """
    return replace(
        options,
        store=absolute_folder("--store", options.store, environment),
        checkpoint=absolute_path("--checkpoint", options.checkpoint, environment),
        out=absolute_folder("--out", options.out, environment),
    )
