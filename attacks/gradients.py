"""Gradients of many perturbations over a step's batch, and their objectives over a split. Torch, and no files.

What does not depend on the perturbation, the batch and the video branch's forward pass, is computed once. A rank
computes its own groups; vectors of all groups are added in the order of the groups in float64, so the sums are the same
bits on any number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attacks.accumulated import clamped, contributions, may_step
from attacks.objectives import element_sum, rank_loss, score_gradient
from attacks.perturbation import SHAPE, Perturbation, Spec
from models.evaluation import evaluating
from models.ranks import Ranks
from models.recogniser import Recogniser
from stores.split_reader import Group

SIZE = math.prod(SHAPE)


@dataclass(frozen=True)
class Rules:
    """How gradients are computed.

    Attributes:
        bound: of the objective `bounded`.
        alpha, clamp: of the rule `accumulated`.
        autocast: arithmetic of forward passes, None for that of the weights.
    """

    bound: float
    alpha: float
    clamp: tuple[float, float]
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class StepSums:
    """What a step gives for one perturbation, over all ranks.

    Attributes:
        vector: float64 [400, 64]: the gradient of the mean objective, or, with the rule accumulated, the sum of all
            samples' contributions.
        still: with the rule accumulated, frames whose gradient was zero or not finite.
        clips: of the batch.
    """

    vector: np.ndarray
    still: int
    clips: int


@contextmanager
def frozen(model: Recogniser) -> Iterator[None]:
    """Within it the model is in eval mode and no parameter wants a gradient; afterwards all is as it was."""
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with evaluating(model):
        try:
            model.requires_grad_(False)
            yield
        finally:
            for parameter, wants in wanted.items():
                parameter.requires_grad_(wants)


@dataclass(frozen=True)
class Ranked:
    """What the objective `rank` needs of a group: it compares clips of the whole batch or split.

    Attributes:
        number: the group's, over all ranks.
        scores: [..., clips, classes].
        targets: [clips, classes].
    """

    number: int
    scores: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, group: Group, scores: Tensor) -> Ranked:
        """A group's, to be sent to other ranks."""
        return cls(group.number, scores.cpu().numpy(), group.targets.cpu().numpy())


def _in_order(parts: Iterable[Sequence[Ranked]]) -> list[Ranked]:
    """All ranks' groups in their order."""
    return sorted((row for part in parts for row in part), key=lambda row: row.number)


class Gradients:
    """Computes steps for the perturbations of a run.

    Args:
        model: `frozen`, on its device; it reads log-mels.
        ranks: group i of a step is computed on rank i mod size.
    """

    def __init__(self, model: Recogniser, ranks: Ranks, rules: Rules) -> None:
        if "logmel" not in model.columns:
            raise ValueError(f"{type(model).__name__} reads no sound: there is nothing to perturb")
        self.model, self.ranks, self.rules = model, ranks, rules
        weights = next(model.parameters())
        self._device, self._dtype = weights.device, weights.dtype

    def step(
        self, perturbations: Sequence[Perturbation], groups: Sequence[Group], first: int, count: int
    ) -> list[StepSums]:
        """Sums over a step's batch, one for each perturbation.

        Args:
            groups: this rank's of the step, in order.
            first, count: the step's groups over all ranks.

        Raises:
            PeerLost: another rank is gone.
            ValueError: no clip is left of the batch.
        """
        deltas = [self._tensor(item.delta) for item in perturbations]
        states = [self._video(group) for group in groups]
        slopes = {i: self._slopes(delta, groups, states) for i, delta in self._ranked(perturbations, deltas)}
        like = torch.zeros(len(perturbations) * (SIZE + 1) + 1, dtype=torch.float64, device=self._device)
        vectors = (self._of_group(perturbations, deltas, slopes, groups, states, k) for k in range(len(groups)))
        total = self.ranks.add_in_order(vectors, like, first, count).cpu().numpy()
        clips = int(total[-1])
        if not clips:
            raise ValueError("no clip is left of a batch: every one is in a damaged shard")
        found = []
        for item, row in zip(perturbations, total[:-1].reshape(-1, SIZE + 1), strict=True):
            mean = item.spec.rule == "projected" and item.spec.objective != "rank"  # rank is a mean already
            vector = row[:-1].reshape(SHAPE) / (clips if mean else 1)
            found.append(StepSums(vector, int(row[-1]), clips))
        return found

    def objectives(self, specs: Sequence[Spec], deltas: Sequence[np.ndarray], batches: Iterable[Group]) -> list[float]:
        """Each perturbation's objective over a split, one pass over this rank's share of it; the same on every rank.

        The sums are rounded once, so they do not depend on who computed what.
        """
        tensors = [self._tensor(delta) for delta in deltas]
        sums: list[list[float]] = [[] for _ in specs]
        kept: list[Ranked] = []
        clips, ranked = 0, [i for i, spec in enumerate(specs) if spec.objective == "rank"]
        with torch.inference_mode():
            for group in batches:
                if not len(group.targets):
                    continue
                state, logmel = self._video(group), group.inputs["logmel"]
                clips += len(group.targets)
                attacked = [self._attacked(logmel, *one) for one in zip(tensors, specs, strict=True)]
                scores = [self._scores(one, state) for one in attacked]
                for i, spec in enumerate(specs):
                    if spec.objective != "rank":
                        sums[i].append(float(element_sum(spec.objective, scores[i], group.targets, self.rules.bound)))
                if ranked:
                    picked = torch.stack([scores[i] for i in ranked])
                    kept.append(Ranked.of(group, picked))
        everyone = self.ranks.gather((sums, clips, kept))
        total = sum(count for _, count, _ in everyone)
        values = [math.fsum(x for part, _, _ in everyone for x in part[i]) / total for i in range(len(specs))]
        if ranked:
            scores_of, targets = self._joined(_in_order(rows for _, _, rows in everyone))
            for place, i in enumerate(ranked):
                values[i] = float(rank_loss(scores_of[place], targets))
        return values

    # ---------------------------------------------------------------- one group

    def _of_group(
        self,
        perturbations: Sequence[Perturbation],
        deltas: Sequence[Tensor],
        slopes: Mapping[int, Sequence[Tensor]],
        groups: Sequence[Group],
        states: Sequence[Tensor | None],
        place: int,
    ) -> Tensor:
        """A group's sums and counts of all perturbations and its clips, in one float64 vector."""
        group, state = groups[place], states[place]
        size = len(group.targets)
        if not size:
            return torch.zeros(len(perturbations) * (SIZE + 1) + 1, dtype=torch.float64, device=self._device)
        parts = []
        for i, (item, delta) in enumerate(zip(perturbations, deltas, strict=True)):
            if item.spec.rule == "accumulated":
                parts += self._accumulated(item.spec, delta, group, state)
            else:
                slope = slopes[i][place] if i in slopes else None
                parts += [self._projected(item.spec, delta, group, state, slope), torch.zeros(1)]
        parts.append(torch.tensor([float(size)]))
        return torch.cat([part.reshape(-1).to(self._device, torch.float64) for part in parts])

    def _projected(self, spec: Spec, delta: Tensor, group: Group, state: Tensor | None, slope: Tensor | None) -> Tensor:
        """The gradient of the group's share of the objective."""
        leaf = delta.detach().requires_grad_()
        scores = self._scores(group.inputs["logmel"] + leaf, state)
        if slope is not None:
            return torch.autograd.grad(scores, leaf, slope.to(scores.dtype))[0]
        loss = element_sum(spec.objective, scores, group.targets, self.rules.bound)
        return torch.autograd.grad(loss, leaf)[0]

    def _accumulated(self, spec: Spec, delta: Tensor, group: Group, state: Tensor | None) -> list[Tensor]:
        """The sum of the samples' contributions, and how many frames could not move."""
        x, mask = group.inputs["logmel"], torch.from_numpy(spec.mask.array()).to(self._device)
        attacked = clamped(x, delta, *self.rules.clamp).detach().requires_grad_()
        loss = element_sum(spec.objective, self._scores(attacked, state), group.targets, self.rules.bound)
        (gradient,) = torch.autograd.grad(loss, attacked)
        added = contributions(x, attacked.detach(), gradient, spec.norm, spec.epsilon, self.rules.alpha, mask)
        still = ~may_step(gradient, mask)[:, mask.any(-1)]
        return [added.double().sum(0), still.sum().reshape(1)]

    def _ranked(self, perturbations: Sequence[Perturbation], deltas: Sequence[Tensor]) -> list[tuple[int, Tensor]]:
        both = enumerate(zip(perturbations, deltas, strict=True))
        return [(i, delta) for i, (item, delta) in both if item.spec.objective == "rank"]

    def _slopes(self, delta: Tensor, groups: Sequence[Group], states: Sequence[Tensor | None]) -> list[Tensor]:
        """∂ rank objective / ∂ scores for each of this rank's groups: from the scores of the whole step's batch."""
        mine = []
        with torch.inference_mode():
            for group, state in zip(groups, states, strict=True):
                scores = self._scores(group.inputs["logmel"] + delta, state)
                mine.append(Ranked.of(group, scores))
        rows = _in_order(self.ranks.gather(mine))
        parts = score_gradient(*self._joined(rows)).split([len(row.targets) for row in rows])
        by_number = {row.number: part for row, part in zip(rows, parts, strict=True)}
        return [by_number[group.number] for group in groups]

    # ---------------------------------------------------------------- the model

    def _attacked(self, logmel: Tensor, delta: Tensor, spec: Spec) -> Tensor:
        return clamped(logmel, delta, *self.rules.clamp) if spec.rule == "accumulated" else logmel + delta

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self.rules.autocast, enabled=self.rules.autocast is not None)

    def _scores(self, logmel: Tensor, state: Tensor | None) -> Tensor:
        with self._autocast():
            return self.model.forward_audio(logmel, state)

    def _video(self, group: Group) -> Tensor | None:
        with torch.no_grad(), self._autocast():
            return self.model.encode_video(group.inputs.get("video")) if len(group.targets) else None

    def _joined(self, rows: Sequence[Ranked]) -> tuple[Tensor, Tensor]:
        """Scores and targets of all clips; the clips are the scores' last dimension but one."""
        scores = torch.from_numpy(np.concatenate([row.scores for row in rows], axis=-2)).to(self._device)
        return scores, torch.from_numpy(np.concatenate([row.targets for row in rows])).to(self._device)

    def _tensor(self, delta: np.ndarray) -> Tensor:
        return torch.from_numpy(delta).to(self._device, self._dtype)
