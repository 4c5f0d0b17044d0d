"""Gradients against differences for every recogniser, however a batch is cut, and models that are left as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import CLASSES, NAMES, random_clips, small_model, stir_batch_norms

from attacks.gradients import Gradients, Rules, frozen
from attacks.masks import Mask
from attacks.norms import dual_norm
from attacks.objectives import element_sum, rank_loss
from attacks.perturbation import SHAPE, Perturbation, Spec
from models.config import ModelConfig
from models.ranks import Ranks
from models.recogniser import Recogniser
from stores.split_reader import Group

HEARING = tuple(name for name in NAMES if name != "video")
RULES = Rules(bound=0.7, alpha=0.01, clamp=(-2.0, 2.0))
SPEC = Spec("projected", "2", "clip", "bce", 1, Mask(), 0.5)
OBJECTIVES: Any = ("bce", "rank", "bounded")


def targets_of(clips: int, seed: int = 3) -> torch.Tensor:
    return (torch.rand(clips, CLASSES, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def cut(clips: int, size: int, dtype: torch.dtype = torch.float64) -> list[Group]:
    """The same clips as groups of a size."""
    inputs, targets = random_clips(clips, dtype=dtype), targets_of(clips).to(dtype)
    return [
        Group(i // size, {name: value[i : i + size] for name, value in inputs.items()}, targets[i : i + size])
        for i in range(0, clips, size)
    ]


def stirred(name: str, dtype: torch.dtype = torch.float64) -> Recogniser:
    model = small_model(name).to(dtype)
    stir_batch_norms(model)
    return model


def perturbations(dtype: Any = float, **changes: Any) -> list[Perturbation]:
    """One for each objective, already somewhere."""
    start = 0.05 * np.random.default_rng(0).standard_normal(SHAPE)
    return [Perturbation(replace(SPEC, objective=objective, **changes), start.copy()) for objective in OBJECTIVES]


def mean_objective(model: Recogniser, objective: Any, delta: np.ndarray, group: Group) -> float:
    inputs = {**group.inputs, "logmel": group.inputs["logmel"] + torch.from_numpy(delta)}
    with torch.no_grad():
        scores = model(inputs)
    if objective == "rank":
        return float(rank_loss(scores, group.targets))
    return float(element_sum(objective, scores, group.targets, RULES.bound)) / len(group.targets)


@pytest.mark.parametrize("name", HEARING)
def test_gradients_are_those_of_differences(name: str) -> None:
    model = stirred(name)
    (whole,) = cut(4, 4)
    items = perturbations()
    with frozen(model):
        found = Gradients(model, Ranks(), RULES).step(items, [whole], 0, 1)
        generator = np.random.default_rng(1)
        for item, sums in zip(items, found, strict=True):
            assert sums.clips == 4 and sums.vector.shape == SHAPE
            # Along the gradient, where there is something to see, and along a random direction of the same size.
            size = np.linalg.norm(sums.vector)
            random = generator.standard_normal(SHAPE)
            for direction in (sums.vector / size, random / np.linalg.norm(random)):
                step = 1e-6 * direction  # small: a ReLU that switches on the way is no slope
                up, down = (mean_objective(model, item.spec.objective, item.delta + h * step, whole) for h in (1, -1))
                found_slope = float((sums.vector * direction).sum())
                assert found_slope == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-5 * size)


class Toy(Recogniser):
    """Two layers over the log-mel: small enough for thirty steps of 64 clips."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(classes=CLASSES))
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first, self.second = torch.nn.Linear(64 * 40, 32), torch.nn.Linear(32, CLASSES)

    def score(self, logmel: torch.Tensor, video_state: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(3 * self.first(logmel.unfold(1, 10, 10).sum(-1).flatten(1))))


@pytest.mark.parametrize(
    ("model", "clips", "size", "steps"),
    [(Toy().double(), 64, 16, 30), (stirred("csn"), 6, 2, 2), (stirred("crnn"), 4, 2, 1), (stirred("late"), 4, 2, 1)],
    ids=["toy", "csn", "crnn", "late"],
)
def test_a_batch_may_be_cut_into_groups(model: Recogniser, clips: int, size: int, steps: int) -> None:
    """All objectives, in float64 to 1e-9, also after 30 normalised steps, which amplify every difference."""
    ends = []
    with frozen(model):
        for groups in (cut(clips, clips), cut(clips, size)):
            items, gradients = perturbations(), Gradients(model, Ranks(), RULES)
            for step in range(steps):
                sums = gradients.step(items, groups, 0, len(groups))
                for item, found in zip(items, sums, strict=True):
                    item.step(found.vector, 0.05, step, steps)
            ends.append([item.delta for item in items])
    for one, other in zip(*ends, strict=True):
        assert np.abs(one).max() > 1e-3
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mask", [Mask(), Mask((20, 40), (0, 200))], ids=lambda mask: mask.name)
@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_a_linear_model_is_moved_as_far_as_can_be(norm: Any, scope: Any, mask: Mask) -> None:
    """Its loss on clips of one class is a monotone function of w·δ, so the best δ is that of the dual norm."""
    model = Toy().double()
    slope = np.random.default_rng(5).uniform(-1, 1, SHAPE) / 160
    weight = torch.from_numpy(slope).flatten()
    model.score = lambda logmel, _: (logmel.flatten(1) @ weight)[:, None]  # type: ignore[method-assign]
    groups = [replace(group, targets=torch.zeros(len(group.targets), 1)) for group in cut(4, 2)]
    item = Perturbation(replace(SPEC, norm=norm, scope=scope, mask=mask, epsilon=0.5))
    with frozen(model):
        gradients = Gradients(model, Ranks(), RULES)
        for step in range(60):
            (sums,) = gradients.step([item], groups, 0, 2)
            item.step(sums.vector, 0.05, step, 60)
    best = 0.5 * dual_norm(np.where(mask.array(), slope, 0.0), norm, scope)
    assert float((slope * item.delta).sum()) == pytest.approx(best, rel=1e-6)


def test_a_model_that_can_be_broken_is() -> None:
    """Its classes hang on one weak pattern that every clip has: an ε that noise does not notice turns all scores."""
    model = Toy().double()
    pattern = torch.randn(SHAPE, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    pattern /= pattern.norm()
    (group,) = cut(16, 16)
    signs = 2 * group.targets[:, :1] - 1
    group = replace(group, inputs={"logmel": 0.05 * signs[:, :, None] * pattern}, targets=group.targets[:, :1])
    model.score = lambda logmel, _: 40 * (logmel * pattern).sum((1, 2))[:, None]  # type: ignore[method-assign]
    item = Perturbation(replace(SPEC, epsilon=0.2))

    def lost(delta: np.ndarray) -> float:
        scores = model({"logmel": group.inputs["logmel"] + torch.from_numpy(delta)})
        return float(((scores > 0) != (group.targets > 0)).double().mean())

    with frozen(model):
        for step in range(40):
            (sums,) = Gradients(model, Ranks(), RULES).step([item], [group], 0, 1)
            item.step(sums.vector, 0.02, step, 40)
    assert lost(np.zeros(SHAPE)) == 0
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    assert lost(0.2 * noise / np.linalg.norm(noise)) == 0
    assert lost(item.delta) >= 0.4  # one of the two classes is gone, whichever way the shift went


def test_the_first_gradient_in_float32() -> None:
    model = stirred("csn", torch.float32)
    found = []
    with frozen(model):
        for size in (4, 2):
            groups = cut(4, size, torch.float32)
            found.append(Gradients(model, Ranks(), RULES).step(perturbations(), groups, 0, len(groups)))
    for one, other in zip(*found, strict=True):
        assert np.abs(one.vector - other.vector).max() <= 1e-5 * np.abs(one.vector).max()


@pytest.mark.parametrize("name", HEARING)
def test_an_attack_leaves_the_model_as_it_was(name: str) -> None:
    model = stirred(name, torch.float32).train()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    with frozen(model):
        assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
        Gradients(model, Ranks(), RULES).step(perturbations()[:2], cut(2, 1, torch.float32), 0, 2)
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_a_model_that_hears_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no sound"):
        Gradients(small_model("video"), Ranks(), RULES)


@pytest.mark.parametrize("name", ["csn", "mid2", "late"])
def test_the_video_branch_runs_once_a_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = stirred(name, torch.float32)
    calls = []
    encode = type(model).encode_video

    def counted(self: Recogniser, video: Any) -> Any:
        calls.append(1)
        return encode(self, video)

    monkeypatch.setattr(type(model), "encode_video", counted)
    with frozen(model):
        Gradients(model, Ranks(), RULES).step([*perturbations(), *perturbations()], cut(4, 2, torch.float32), 0, 2)
    assert len(calls) == 2  # two groups, six perturbations


def test_groups_that_are_left_out_change_nothing() -> None:
    model = stirred("csn")
    groups = cut(4, 2)
    hole = Group(2, {name: value[:0] for name, value in groups[0].inputs.items()}, groups[0].targets[:0])
    with frozen(model):
        gradients = Gradients(model, Ranks(), RULES)
        whole = gradients.step(perturbations(), groups, 0, 2)
        holed = gradients.step(perturbations(), [*groups, hole], 0, 3)
        for one, other in zip(whole, holed, strict=True):
            np.testing.assert_array_equal(one.vector, other.vector)
        with pytest.raises(ValueError, match="damaged"):
            gradients.step(perturbations(), [hole], 0, 1)


def test_objectives_over_a_split() -> None:
    model = stirred("csn")
    (whole,), items = cut(7, 7), perturbations()
    specs, deltas = [item.spec for item in items], [item.delta for item in items]
    with frozen(model):
        gradients = Gradients(model, Ranks(), RULES)
        for size in (7, 2):
            found = gradients.objectives(specs, deltas, cut(7, size))
            for spec, delta, value in zip(specs, deltas, found, strict=True):
                assert value == pytest.approx(mean_objective(model, spec.objective, delta, whole), rel=1e-10)


def test_the_accumulated_rule_is_that_of_each_sample() -> None:
    """Against the rule written out for one clip after the other."""
    model = stirred("csn")
    groups, epsilon = cut(4, 2), 0.1
    item = Perturbation(replace(SPEC, rule="accumulated", scope="frame", epsilon=epsilon))
    item.delta = 0.02 * np.random.default_rng(5).standard_normal(SHAPE)
    expected = np.zeros(SHAPE)
    with frozen(model):
        (sums,) = Gradients(model, Ranks(), RULES).step([item], groups, 0, 2)
        for group in groups:
            for x, truth in zip(group.inputs["logmel"], group.targets, strict=True):
                shown = (x + torch.from_numpy(item.delta)).clamp(-2, 2).requires_grad_()
                (slope,) = torch.autograd.grad(
                    element_sum("bce", model({"logmel": shown[None]}), truth[None], 1.0), shown
                )
                change = (shown.detach() + 0.01 * slope / slope.norm(dim=1, keepdim=True) - x).numpy()
                if np.linalg.norm(change) > epsilon:
                    change = epsilon * change / np.linalg.norm(change, axis=1, keepdims=True)
                expected += change
    np.testing.assert_allclose(sums.vector, expected, atol=1e-9)
    assert (sums.clips, sums.still) == (4, 0)


def test_crnn_scores_are_those_with_cudnn_off() -> None:
    model = stirred("crnn", torch.float32).eval()
    clips = random_clips(2)
    with torch.no_grad():
        plain = model(clips)
        with torch.backends.cudnn.flags(enabled=False):
            torch.testing.assert_close(model(clips), plain, rtol=0, atol=0)
    leaf = clips["logmel"].clone().requires_grad_()
    torch.testing.assert_close(model({"logmel": leaf}).detach(), plain, rtol=1e-5, atol=1e-6)
