"""One universal perturbation on its way: which one it is, how it takes a step, and the best that it has been.

δ is one float64 array [400, 64] in normalised units, added to every clip's log-mel. Steps go uphill: the minus sign
that is printed in the paper's equation 1 would make a defence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from attacks.masks import Mask
from attacks.noise import same_norm_noise
from attacks.norms import Norm, Scope, norms_of, project, steepest, top_k_at
from attacks.objectives import Objective

SHAPE = (400, 64)  # frames, mel bins
SLACK = 1e-6  # by which rounding may take a projected δ out of its ball, relative
Rule = Literal["projected", "accumulated"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Spec:
    """Which perturbation it is, of those made in one run.

    Attributes:
        rule: `projected` stays in the ball; `accumulated` is the released code's.
        norm, scope, epsilon: the ball; in scope `frame` every frame has one of its own.
        objective: what it makes large.
        seed: of the point that it starts from, where that is not 0.
        mask: the region that may be touched.
    """

    rule: Rule
    norm: Norm
    scope: Scope
    objective: Objective
    seed: int
    mask: Mask
    epsilon: float

    @property
    def name(self) -> str:
        """Tells it from the others of a run; letters, digits, `-`, `_` and `.` only."""
        return (
            f"{self.rule}-l{self.norm}-{self.scope}-eps{self.epsilon:g}-{self.mask.name}-{self.objective}-s{self.seed}"
        )

    def within(self, other: Spec) -> bool:
        """Whether all that this one may be the other may be as well: a smaller ball, a smaller mask, else the same."""
        same = (self.rule, self.norm, self.scope, self.objective, self.seed)
        return (
            self != other
            and self.rule == "projected"
            and same == (other.rule, other.norm, other.scope, other.objective, other.seed)
            and self.epsilon <= other.epsilon
            and other.mask.contains(self.mask)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "rule": self.rule,
            "norm": self.norm,
            "scope": self.scope,
            "epsilon": None if math.isinf(self.epsilon) else self.epsilon,
            "objective": self.objective,
            "seed": self.seed,
            "mask": self.mask.name,
            "freq": list(self.mask.freq),
            "time": list(self.mask.time),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Spec:
        """The inverse of `to_dict`. Raises ValueError or KeyError for anything else."""
        epsilon = math.inf if raw["epsilon"] is None else float(raw["epsilon"])
        mask = Mask(tuple(raw["freq"]), tuple(raw["time"]))
        return cls(raw["rule"], raw["norm"], raw["scope"], raw["objective"], raw["seed"], mask, epsilon)


class OutOfBall(Exception):  # noqa: N818 - the end of a run: our bug
    """A projected perturbation has left its ball. Positional arguments only."""


@dataclass
class Perturbation:
    """A perturbation and its history.

    Attributes:
        spec: which one.
        delta: float64 [400, 64], as it is now.
        best, best_value, best_step: the iterate with the highest objective on the select split, or the last one of the
            rule accumulated; None before a look.
        units, still: how many steps it might have taken (of frames, in scope `frame`), and how many of them it could
            not, because the gradient was zero or not finite.
        inherited: name of the perturbation that the best iterate was taken over from.
    """

    spec: Spec
    delta: np.ndarray = field(default_factory=lambda: np.zeros(SHAPE))
    best: np.ndarray | None = None
    best_value: float = -math.inf
    best_step: int = 0
    units: int = 0
    still: int = 0
    inherited: str = ""

    @classmethod
    def start(cls, spec: Spec, first_seed: int) -> Perturbation:
        """At 0; a perturbation of another seed than the first at a random point of its ball (of radius 1 if endless),
        as far out as the square root of a uniform number says."""
        made = cls(spec)
        if spec.seed != first_seed and spec.rule == "projected":
            generator = np.random.default_rng(spec.seed)
            radius = spec.epsilon if math.isfinite(spec.epsilon) else 1.0
            corner = np.zeros(SHAPE)
            # Any array with that norm will do: of every frame, or of the clip.
            if spec.scope == "frame" or spec.norm == "inf":
                corner[:, 0] = radius
            else:
                corner[0, 0] = radius
            noise = same_norm_noise(corner, spec.norm, spec.scope, spec.mask.array(), generator)
            made.delta = project(noise * math.sqrt(generator.random()), spec.norm, spec.scope, spec.epsilon)
        return made

    def step(self, gradient: np.ndarray, alpha: float, step: int, steps: int) -> None:
        """One step of the projected rule.

        Args:
            gradient: of the objective at δ, [400, 64], any real type.
            alpha: the step's length in the norm.
            step, steps: its number from 0, and how many there are.

        Raises:
            OutOfBall: δ is not in the ball afterwards.
        """
        spec, mask = self.spec, self.spec.mask.array()
        allowed = mask.any(0).sum() if spec.scope == "frame" else mask.sum()
        masked = np.where(mask, gradient.astype(np.float64), 0.0)
        top_k = top_k_at(step, steps, int(allowed))
        direction, moved = steepest(masked, spec.norm, spec.scope, top_k)
        touched = mask.any(1) if spec.scope == "frame" else np.ones(1, bool)  # frames outside the mask do not count
        self.units += int(touched.sum())
        self.still += int((touched & ~moved).sum())
        self.delta = project(self.delta + alpha * direction, spec.norm, spec.scope, spec.epsilon)
        self.check()

    def accumulate(self, change: np.ndarray, units: int, still: int) -> None:
        """One step of the accumulated rule.

        Args:
            change: what δ grows by.
            units, still: frames of the batch's clips that might have moved, and those that could not.
        """
        self.delta = self.delta + change
        self.units += units
        self.still += still

    def check(self) -> None:
        """Raises OutOfBall where a projected δ is out of its ball, its mask or the finite numbers."""
        spec = self.spec
        largest = float(norms_of(self.delta, spec.norm, spec.scope).max())
        outside = bool(self.delta[~spec.mask.array()].any())
        if not np.isfinite(self.delta).all() or outside or largest > spec.epsilon * (1 + SLACK):
            raise OutOfBall(f"{spec.name}: norm {largest:g}, {'outside' if outside else 'inside'} its mask")

    def look(self, value: float, step: int) -> None:
        """Notes the objective on the select split of δ as it is. The accumulated rule, as released, keeps the last."""
        if self.best is None or value > self.best_value or self.spec.rule == "accumulated":
            self.best, self.best_value, self.best_step, self.inherited = self.delta.copy(), value, step, ""

    def take_over(self, other: Perturbation) -> None:
        """Where a perturbation that may be less has done better, its best is the best of this one too.

        δ itself goes on from where it is: sent back into the smaller ball at every look it would never leave it.
        """
        if other.best is None or not other.spec.within(self.spec):
            return
        if other.best_value > self.best_value:
            self.best, self.best_value, self.best_step = other.best.copy(), other.best_value, other.best_step
            self.inherited = other.inherited or other.spec.name


def measured(delta: np.ndarray) -> dict[str, float]:
    """Norms of a δ, whole and of its frames: what is scored, whatever ε was."""
    found = {}
    for norm in ("1", "2", "inf"):
        frames = norms_of(delta, norm, "frame")
        found[f"l{norm}"] = float(norms_of(delta, norm, "clip")[0])
        found[f"l{norm}_frame_mean"] = float(frames.mean())
        found[f"l{norm}_frame_max"] = float(frames.max())
    return found
