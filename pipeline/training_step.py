"""One optimiser step over a fixed list of groups, whichever ranks they are on.

A step's batch is cut into groups of consecutive samples. A rank computes its own groups one by one; gradients, loss and
BatchNorm statistics of all groups are added up in the order of the groups, wherever they were computed, and divided by
what they are the sum of only then. So a step is the same bits on any number of ranks of one kind of device. That is
more than neatness: gradients that are zero but for rounding, as those of a bias before a BatchNorm, become whole steps
under Adam, and an evaluation sees them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from models.ranks import Ranks
from models.recogniser import Recogniser
from pipeline.augment import mixup, random_of, spec_augment
from pipeline.batchnorm import GroupStatistics
from stores.split_reader import Group

DROPOUT, AUGMENT = 1, 2  # what a random stream is for


class NonFiniteLoss(Exception):  # noqa: N818 - the end of a run
    """The loss or a gradient is NaN or infinite; the words say in which step. Positional arguments only."""


@dataclass(frozen=True)
class StepResult:
    """What a step measured, over all ranks: mean loss, norm of the gradient, clips that it saw."""

    loss: float
    gradient_norm: float
    clips: int


@dataclass(frozen=True)
class StepRules:
    """How a step is taken.

    Attributes:
        seed: of dropout and augmentation; what a group draws follows from seed, step and group alone.
        learning_rate, warmup, steps: see `learning_rate_of`.
        autocast: arithmetic of the forward pass, None for that of the weights.
        mixup: α, 0 for none.
        spec_augment: whether stripes of the log-mels are left out.
    """

    seed: int
    learning_rate: float
    warmup: int
    steps: int
    autocast: torch.dtype | None = None
    mixup: float = 0.0
    spec_augment: bool = False


def learning_rate_of(step: int, rules: StepRules) -> float:
    """The learning rate of a step, counted from 0: linear up over `warmup` steps, then linear down to 0 at `steps`."""
    if step < rules.warmup:
        return rules.learning_rate * (step + 1) / rules.warmup
    return rules.learning_rate * (rules.steps - step) / max(1, rules.steps - rules.warmup)


class TrainingStep:
    """Takes steps.

    Args:
        model: in training mode, equal on every rank.
        optimizer: over its parameters, equal on every rank.
        groups: of a step; those of step s are s·groups, s·groups + 1, …, and group i is computed on rank i mod size.
    """

    def __init__(self, model: Recogniser, optimizer: Optimizer, ranks: Ranks, rules: StepRules, groups: int) -> None:
        self.model, self.optimizer, self.ranks, self.rules, self.groups = model, optimizer, ranks, rules, groups
        self._statistics = GroupStatistics(model)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        shapes = [*(parameter.shape for parameter in self._parameters), *self._statistics.shapes, (3,)]
        self._sizes = [math.prod(shape) for shape in shapes]
        self._shapes = shapes
        self._like = torch.zeros(sum(self._sizes), dtype=self._parameters[0].dtype, device=self._parameters[0].device)

    def __call__(self, step: int, groups: Iterable[Group]) -> StepResult:
        """Takes a step.

        Args:
            step: its number, from 0.
            groups: this rank's share of the step's groups, in order; it may be none.

        Raises:
            NonFiniteLoss: the weights are as they were before.
            PeerLost: another rank is gone.
        """
        with self._statistics.step():
            mine = (self._of_group(step, group) for group in groups)
            flat = self.ranks.add_in_order(mine, self._like, step * self.groups, self.groups)
        sums = [part.view(shape) for part, shape in zip(flat.split(self._sizes), self._shapes, strict=True)]
        gradients, statistics = sums[: len(self._parameters)], sums[len(self._parameters) : -1]
        loss_sum, clips, filled = sums[-1].tolist()
        if not clips:
            raise NonFiniteLoss(f"step {step}: no clip is left of its batch: every one is in a damaged shard")
        torch._foreach_div_(gradients, clips)
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            raise NonFiniteLoss(
                f"step {step}: the loss is {loss_sum / clips:g} and the gradient's norm {norm:g}; the weights of the "
                "last checkpoint are sound: lower --learning-rate, or look at the data with `python -m stores verify`"
            )
        for settings in self.optimizer.param_groups:
            settings["lr"] = learning_rate_of(step, self.rules)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self._statistics.update(statistics, int(filled))
        return StepResult(loss_sum / clips, norm, int(clips))

    def _of_group(self, step: int, group: Group) -> Tensor:
        """A group's gradients, statistics, loss, number of clips and 1, in one vector; zeros for a group of no clip."""
        rules = self.rules
        if not len(group.targets):
            return torch.zeros_like(self._like)
        random = random_of(rules.seed, step, group.number, AUGMENT)
        inputs, targets = group.inputs, group.targets
        if rules.spec_augment and "logmel" in inputs:
            inputs = {**inputs, "logmel": spec_augment(inputs["logmel"], random)}
        if rules.mixup:
            inputs, targets = mixup(inputs, targets, rules.mixup, random)
        # Dropout draws from torch's default generators, of which the seed sets every device's.
        torch.manual_seed(int(random_of(rules.seed, step, group.number, DROPOUT).integers(2**63)))
        self._statistics.begin_group()
        with torch.autocast(targets.device.type, dtype=rules.autocast, enabled=rules.autocast is not None):
            heads = self.model.forward_heads(inputs)
        losses = [weight * _loss(heads[name], targets) for name, weight in self.model.head_weights.items()]
        loss = torch.stack(losses).sum()
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        both = zip(gradients, self._parameters, strict=True)
        parts = [torch.zeros_like(parameter) if gradient is None else gradient for gradient, parameter in both]
        parts += self._statistics.group()
        flat = [part.reshape(-1) for part in parts]
        return torch.cat([*flat, loss.detach().reshape(1).to(self._like), self._like.new_tensor([len(targets), 1])])


def _loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, summed over clips and averaged over classes."""
    summed = F.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype), reduction="sum")
    return summed / scores.shape[1]
