"""One step over groups: autograd on the whole batch is the oracle; what is random, and what a failed step leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, random_clips, small_model
from torch import Tensor, nn

from models.ranks import Ranks
from models.recogniser import Recogniser
from pipeline.training_step import NonFiniteLoss, StepResult, StepRules, TrainingStep, learning_rate_of
from stores.split_reader import Group

RULES = StepRules(seed=5, learning_rate=1e-3, warmup=4, steps=10)
pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Plain(nn.Module):
    """Has a recogniser's heads, and nothing in it that looks beyond one clip."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Dropout(dropout))
        self.joint, self.audio = nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)
        self.head_weights = {"joint": 0.7, "audio": 0.3}

    def forward_heads(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Two heads over the mean of an eighth of the sound each."""
        state = self.layers(inputs["logmel"].reshape(len(inputs["logmel"]), 8, -1).mean(2))
        return {"joint": self.joint(state), "audio": self.audio(state)}


def plain(dropout: float = 0.0) -> Plain:
    """With weights of its own, in float64 and training mode."""
    torch.manual_seed(0)
    return Plain(dropout).double()


def groups_of(sizes: Sequence[int], first: int = 0, dtype: torch.dtype = torch.float64) -> list[Group]:
    """Consecutive groups of these sizes, out of one batch."""
    inputs = random_clips(sum(sizes), dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    targets = (torch.rand(sum(sizes), CLASSES, generator=generator) < 0.4).to(dtype)
    parts = {name: values.split(list(sizes)) for name, values in inputs.items()}
    return [
        Group(first + number, {name: split[number] for name, split in parts.items()}, part)
        for number, part in enumerate(targets.split(list(sizes)))
    ]


def step_of(model: nn.Module, groups: int, ranks: Ranks | None = None, rules: StepRules = RULES) -> TrainingStep:
    """A step with plain gradient descent, whose updates are the gradients."""
    return TrainingStep(model, torch.optim.SGD(model.parameters(), lr=1.0), ranks or Ranks(), rules, groups)


def take(model: nn.Module, step: int, groups: Sequence[Group], rules: StepRules = RULES) -> StepResult:
    """One step, alone."""
    return step_of(model, len(groups), rules=rules)(step, groups)


def whole_batch(model: Plain, groups: Sequence[Group]) -> tuple[float, list[Tensor]]:
    """The mean loss over all clips and classes, and its gradient."""
    heads = model.forward_heads({"logmel": torch.cat([group.inputs["logmel"] for group in groups])})
    targets = torch.cat([group.targets for group in groups])
    loss = sum(w * F.binary_cross_entropy_with_logits(heads[name], targets) for name, w in model.head_weights.items())
    return float(loss.detach()), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("sizes", [(7,), (3, 1, 5), (4, 0, 2), (0, 2)])
def test_loss_gradient_and_update_are_those_of_the_mean_over_all_clips(sizes: tuple[int, ...]) -> None:
    model, groups = plain(), groups_of(sizes)
    loss, gradients = whole_batch(model, groups)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    result = take(model, 1, groups)
    assert result.loss == pytest.approx(loss, rel=1e-13)
    assert result.clips == sum(sizes)
    assert result.gradient_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-13)
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-16)
        torch.testing.assert_close(parameter.detach(), old - learning_rate_of(1, RULES) * gradient, rtol=0, atol=1e-15)


def test_a_step_does_not_see_the_gradients_of_the_one_before() -> None:
    model, groups = plain(), groups_of((3, 2))
    step = step_of(model, 2)
    step(0, groups)
    loss, gradients = whole_batch(model, groups)
    assert step(1, groups).loss == pytest.approx(loss, rel=1e-13)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-12, atol=1e-16)


class Overheard(Exception):  # noqa: N818 - how a rank is stopped once it has said what it has
    """Holds the vectors of a rank's groups."""


class Speaking(Ranks):
    """One rank of several, that is only listened to."""

    def add_in_order(self, mine: Sequence[Tensor], like: Tensor, first: int, count: int) -> Tensor:
        """Never gives a sum."""
        raise Overheard(list(mine))


class Hearing(Ranks):
    """One rank of several, to whom the others' vectors are given."""

    def __init__(self, rank: int, size: int, others: dict[int, list[Tensor]]) -> None:
        super().__init__(rank, size)
        self._others = others

    def add_in_order(self, mine: Sequence[Tensor], like: Tensor, first: int, count: int) -> Tensor:
        """The sum over all, in the groups' order."""
        left = {**{rank: list(said) for rank, said in self._others.items()}, self.rank: list(mine)}
        vectors = [left[item % self.size].pop(0) for item in range(first, first + count)]
        assert not any(left.values())
        return torch.stack(vectors).sum(0)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_take_the_step_of_one(size: int) -> None:
    groups = groups_of((2, 4, 3), first=6)  # of step 2: on four ranks the second has none
    shares = {rank: [group for group in groups if group.number % size == rank] for rank in range(size)}

    def model() -> Recogniser:
        return small_model("csn", dropout=0.5, width=1 / 32).double()

    alone = model()
    expected = step_of(alone, 3)(2, groups)
    said: dict[int, list[Tensor]] = {}
    for rank, share in shares.items():
        with pytest.raises(Overheard) as heard:
            step_of(model(), 3, Speaking(rank, size))(2, share)
        said[rank] = heard.value.args[0]
    for rank, share in shares.items():
        here = model()
        result = step_of(here, 3, Hearing(rank, size, said))(2, share)
        assert result.clips == expected.clips == 9
        assert result.loss == pytest.approx(expected.loss, rel=1e-12)
        assert result.gradient_norm == pytest.approx(expected.gradient_norm, rel=1e-12)
        for found, wanted in zip(here.state_dict().values(), alone.state_dict().values(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_learning_rate_rises_to_its_highest_and_falls_to_zero() -> None:
    rates = [learning_rate_of(step, RULES) for step in range(10)]
    assert rates[:4] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3])
    assert rates[4:] == pytest.approx([1e-3, 5e-3 / 6, 4e-3 / 6, 3e-3 / 6, 2e-3 / 6, 1e-3 / 6])
    assert learning_rate_of(10, RULES) == 0


@pytest.mark.parametrize(
    ("warmup", "steps", "rates"), [(0, 4, [1, 0.75, 0.5, 0.25]), (2, 2, [0.5, 1]), (0, 1, [1]), (1, 1, [1])]
)
def test_learning_rate_of_short_runs(warmup: int, steps: int, rates: list[float]) -> None:
    rules = StepRules(seed=0, learning_rate=1.0, warmup=warmup, steps=steps)
    assert [learning_rate_of(step, rules) for step in range(steps)] == pytest.approx(rates)


def test_every_parameter_group_gets_the_steps_learning_rate() -> None:
    model = plain()
    settings = [{"params": [p]} for p in model.parameters()]
    optimizer = torch.optim.Adam(settings, lr=9.0)
    TrainingStep(model, optimizer, Ranks(), RULES, 1)(5, groups_of((2,)))
    assert {group["lr"] for group in optimizer.param_groups} == {learning_rate_of(5, RULES)}


def loss_with_dropout(
    seed: int = 5, step: int = 2, first: int = 6, drawn_before: int = 0, sizes: Sequence[int] = (3, 3)
) -> float:
    model = plain(dropout=0.5)
    torch.manual_seed(77)
    torch.rand(drawn_before)
    rules = StepRules(seed=seed, learning_rate=1e-3, warmup=0, steps=10)
    return take(model, step, groups_of(sizes, first), rules).loss


def test_dropout_follows_from_seed_step_and_group_and_from_nothing_else() -> None:
    loss = loss_with_dropout()
    assert loss_with_dropout(drawn_before=13) == loss
    others = [loss_with_dropout(seed=6), loss_with_dropout(step=3), loss_with_dropout(first=7)]
    assert len({loss, *others}) == 4


def test_a_groups_draws_do_not_depend_on_the_groups_before_it() -> None:
    # What ranks see of a step differs; what each group draws must not.
    model, groups = plain(dropout=0.5), groups_of((3, 3), first=8)
    both = take(model, 0, groups).loss
    model = plain(dropout=0.5)
    each = [take(copy.deepcopy(model), 0, [group]).loss for group in groups]
    assert both == pytest.approx(sum(each) / 2, rel=1e-13)


def poisoned(groups: list[Group]) -> list[Group]:
    last = groups[-1]
    sound = last.inputs["logmel"].clone()
    sound[-1, 3, 3] = float("nan")
    return [*groups[:-1], Group(last.number, {**last.inputs, "logmel": sound}, last.targets)]


def test_a_clip_that_is_not_a_number_ends_the_run_and_changes_nothing() -> None:
    model = small_model("csn", width=1 / 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    step = TrainingStep(model, optimizer, Ranks(), RULES, 2)
    groups = groups_of((2, 2), dtype=torch.float32)
    step(0, groups)  # so that the optimiser has a state to lose
    weights, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"^step 1: the loss is nan"):
        step(1, poisoned(groups))
    for name, value in model.state_dict().items():  # running statistics too: the first group had already moved them
        assert torch.equal(value, weights[name]), name
    for number, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, memory["state"][number][name]) for name, value in state.items())
    assert optimizer.state_dict()["param_groups"] == memory["param_groups"]
    assert {module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}
    assert math.isfinite(step(1, groups).loss)  # and nothing of it is left


def test_an_infinite_gradient_under_a_finite_loss_is_found_too() -> None:
    class Steep(Plain):
        def forward_heads(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            heads = super().forward_heads(inputs)
            return {name: scores + (scores * 0).abs().sqrt() for name, scores in heads.items()}

    model = Steep().double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteLoss, match=r"^step 3: the loss is 0\.\d+ and the gradient's norm (nan|inf)"):
        take(model, 3, groups_of((2,)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)], ids=str)
def test_a_step_without_a_clip_ends_the_run(sizes: tuple[int, ...]) -> None:
    with pytest.raises(NonFiniteLoss, match="step 4: no clip is left"):
        take(plain(), 4, groups_of(sizes) if sizes else [])


def test_a_reader_that_fails_between_groups_leaves_the_model_as_it_was() -> None:
    def failing():
        yield groups_of((2,), dtype=torch.float32)[0]
        raise OSError("a shard is gone")

    model = small_model("csn", width=1 / 32)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(OSError, match="shard"):
        step_of(model, 2)(0, failing())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def blending_loss(model: Recogniser, groups: Sequence[Group]) -> float:
    """By hand: 0.377 joint + 0.239 audio + 0.384 visual, each a mean over clips and classes."""
    heads = model.forward_heads(groups[0].inputs)
    each = {name: F.binary_cross_entropy_with_logits(scores, groups[0].targets) for name, scores in heads.items()}
    return float((0.377 * each["joint"] + 0.239 * each["audio"] + 0.384 * each["visual"]).detach())


def test_a_group_without_a_clip_counts_for_no_statistics() -> None:
    models = [small_model("csn", dropout=0.0, width=1 / 32).double() for _ in range(2)]
    full = groups_of((2, 3))
    empty = Group(2, {name: values[:0] for name, values in full[0].inputs.items()}, full[0].targets[:0])
    for model, groups in zip(models, (full, [*full, empty]), strict=True):
        take(model, 0, groups)
    for value, wanted in zip(models[1].state_dict().values(), models[0].state_dict().values(), strict=True):
        assert torch.equal(value, wanted)


def test_blended_heads_count_by_their_weights() -> None:
    model, groups = small_model("mid1", dropout=0.0, blending=True, width=1 / 32).double(), groups_of((3,))
    loss = blending_loss(copy.deepcopy(model), groups)
    assert take(model, 0, groups).loss == pytest.approx(loss, rel=1e-12)
    assert all(p.grad.abs().sum() > 0 for p in [*model.audio_pooling.parameters()][::2])


@pytest.mark.parametrize("change", [{"mixup": 1.0}, {"spec_augment": True}], ids=str)
def test_augmentation_changes_the_step_and_is_reproducible(change: dict) -> None:
    rules = StepRules(seed=5, learning_rate=1e-3, warmup=0, steps=10, **change)
    groups = groups_of((3, 2), first=4)
    before = copy.deepcopy(groups)
    losses = {number: take(plain(), number, groups, rules).loss for number in (0, 1)}
    bare = take(plain(), 0, groups).loss
    assert len({bare, *losses.values()}) == 3
    torch.rand(5)
    assert take(plain(), 0, groups, rules).loss == losses[0]
    for group, old in zip(groups, before, strict=True):
        assert torch.equal(group.inputs["logmel"], old.inputs["logmel"]) and torch.equal(group.targets, old.targets)


def test_augmentation_is_drawn_apart_from_dropout() -> None:
    """The same units fall out whether masks are drawn or not: a model that does not hear has an unchanged loss."""

    class Deaf(Plain):
        def forward_heads(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().forward_heads({"logmel": torch.ones_like(inputs["logmel"])})

    losses = []
    for spec_augment in (False, True):
        torch.manual_seed(0)
        rules = StepRules(seed=5, learning_rate=1e-3, warmup=0, steps=10, spec_augment=spec_augment)
        losses.append(take(Deaf(0.5).double(), 0, groups_of((3,)), rules).loss)
    assert losses[0] == losses[1]


def test_autocast_computes_in_its_type_and_keeps_weights_in_theirs() -> None:
    model, groups = small_model("csn", dropout=0.0, width=1 / 32), groups_of((3,), dtype=torch.float32)
    plain_loss = take(copy.deepcopy(model), 0, groups).loss
    rules = StepRules(seed=5, learning_rate=1e-3, warmup=0, steps=10, autocast=torch.bfloat16)
    loss = take(model, 0, groups, rules).loss
    assert loss != plain_loss
    assert loss == pytest.approx(plain_loss, rel=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
