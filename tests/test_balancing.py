"""Gradient balancing: what comes back against what went in, sample by sample, in float64."""

from __future__ import annotations

import pytest
import torch
from small_models import FUSIONS, random_clips, small_model
from torch import Tensor, nn

from models.balancing import balance_gradients


def through(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients that come out where these go in."""
    inputs = [torch.zeros_like(gradient, requires_grad=True) for gradient in (first, second)]
    torch.autograd.backward(balance_gradients(*inputs), (first, second))
    assert inputs[0].grad is not None and inputs[1].grad is not None
    return inputs[0].grad, inputs[1].grad


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_gradient_is_scaled_to_the_mean_of_the_two_norms() -> None:
    sizes = torch.tensor([1e-9, 1.0, 3.0, 1e9], dtype=torch.float64)
    first, second = normal(4, 10, 7, seed=0) * sizes[:, None, None], normal(4, 5, seed=1)
    out = through(first, second)
    for clip in range(4):
        norms = [gradient[clip].square().sum().sqrt() for gradient in (first, second)]
        for before, after, norm in zip((first, second), out, norms, strict=True):
            expected = before[clip] * (norms[0] + norms[1]) / 2 / norm
            torch.testing.assert_close(after[clip], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("zeroed", ["first", "second", "both"])
def test_where_a_norm_is_zero_both_pass_as_they_are(zeroed: str) -> None:
    first, second = normal(3, 6, seed=2), normal(3, 4, seed=3)
    if zeroed != "second":
        first[1] = 0
    if zeroed != "first":
        second[1] = 0
    out = through(first, second)
    assert torch.equal(out[0][1], first[1]) and torch.equal(out[1][1], second[1])
    assert not torch.allclose(out[0][0], first[0]), "the samples beside it are balanced all the same"


def test_gradients_whose_squares_are_below_float32_are_balanced() -> None:
    first, second = (1e-30 * normal(2, 50, seed=4)).float(), (3e-30 * normal(2, 50, seed=5)).float()
    out = through(first, second)
    norms = [gradient.double().norm(dim=1) for gradient in out]
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(
        norms[0], (first.double().norm(dim=1) + second.double().norm(dim=1)) / 2, rtol=1e-6, atol=0
    )


def test_half_precision_stays_half_and_is_scaled_in_float32() -> None:
    first, second = normal(2, 64, seed=6).to(torch.bfloat16), (5 * normal(2, 64, seed=7)).to(torch.bfloat16)
    out = through(first, second)
    assert out[0].dtype == torch.bfloat16
    norms = [gradient.double().norm(dim=1) for gradient in (first, second)]
    expected = (first.double() * ((norms[0] + norms[1]) / 2 / norms[0])[:, None]).to(torch.bfloat16)
    torch.testing.assert_close(out[0], expected, rtol=2**-7, atol=0)


def test_forward_is_the_identity() -> None:
    first, second = normal(2, 3, seed=8), normal(2, 4, seed=9)
    out = balance_gradients(first, second)
    assert torch.equal(out[0], first) and torch.equal(out[1], second)


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    first, second = normal(2, 3, seed=8).requires_grad_(), normal(2, 4, seed=9).requires_grad_()
    out = balance_gradients(first, second)
    loss = out[0].square().sum() + out[1].square().sum()
    [gradient] = torch.autograd.grad(loss, first, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def is_balanced(scores: Tensor) -> bool:
    """Whether a balancing step is in the graph behind the scores."""
    pending, seen = [scores.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "BalanceGradients" in node.name():
            return True
        pending += [following for following, _ in node.next_functions]
    return False


@pytest.mark.parametrize("name", FUSIONS)
def test_balanced_are_the_mid_fusions_in_training_and_nothing_else(name: str) -> None:
    clips = random_clips(2)
    model = small_model(name)
    assert is_balanced(model(clips)) == (name in ("mid1", "mid2"))
    assert not is_balanced(model.eval()(clips))
    if name in ("mid1", "mid2"):
        assert not is_balanced(small_model(name, balance_gradients=False)(clips))


def gradients_at_the_fusion(model: nn.Module, video: Tensor, logmel: Tensor) -> list[Tensor]:
    """What comes back, per sample, from the concatenation to the last layer of the sound and to the video transform."""
    last_of_sound = model.transformer if type(model).__name__ == "MidFusion2" else model.convs
    caught: dict[str, Tensor] = {}

    def catch(side: str) -> object:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(lambda gradient: caught.update({side: gradient}))

        return hook

    handles = [
        last_of_sound.register_forward_hook(catch("audio")),
        model.transform.register_forward_hook(catch("video")),
    ]  # type: ignore[union-attr, arg-type]
    scores = model({"logmel": logmel, "video": video})
    (scores * normal(*scores.shape, seed=11)).sum().backward()
    for handle in handles:
        handle.remove()
    return [caught["audio"].flatten(1), caught["video"].flatten(1)]


@pytest.mark.parametrize("name", ["mid1", "mid2"])
@pytest.mark.parametrize("transform", ["conv1d", "raw"])
def test_balancing_in_the_model_rescales_what_the_unbalanced_model_sends_back(name: str, transform: str) -> None:
    clips = random_clips(3, dtype=torch.float64)
    found = {}
    for balanced in (False, True):
        model = small_model(name, dropout=0.0, video_transform=transform, balance_gradients=balanced).double()
        found[balanced] = gradients_at_the_fusion(model, clips["video"].clone().requires_grad_(), clips["logmel"])
    norms = [gradient.norm(dim=1, keepdim=True) for gradient in found[False]]
    assert (norms[0] / norms[1] - 1).abs().min() > 0.05, "there is something to balance"
    for before, after, norm in zip(found[False], found[True], norms, strict=True):
        torch.testing.assert_close(after, before * (norms[0] + norms[1]) / 2 / norm, rtol=1e-10, atol=0)
