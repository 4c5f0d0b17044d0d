"""CRNN: the published size, the recurrent layer against numpy, backward in eval mode."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from small_models import random_clips, small_model
from torch import Tensor, nn

from models.crnn import BidirectionalGru, Crnn, CrnnConfig


def run_gru(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    """One direction: [T, dim] to [T, H], by the equations in torch's documentation of GRU."""
    into, recurrent, into_bias, recurrent_bias = weights
    size = recurrent.shape[1]
    state, states = np.zeros(size), []
    for frame in x:
        gates, memory = into @ frame + into_bias, recurrent @ state + recurrent_bias
        reset = scipy.special.expit(gates[:size] + memory[:size])
        update = scipy.special.expit(gates[size : 2 * size] + memory[size : 2 * size])
        new = np.tanh(gates[2 * size :] + reset * memory[2 * size :])
        state = (1 - update) * new + update * state
        states.append(state)
    return np.stack(states)


def test_recurrent_layer_equals_numpy() -> None:
    layer = BidirectionalGru(12).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in layer.parameters():
        if parameter.dim() == 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(2, 9, 12, generator=generator, dtype=torch.float64)
    weights = [parameter.detach().numpy() for parameter in layer.parameters()]
    out = layer(x).detach().numpy()
    for clip in range(2):
        forwards = run_gru(x[clip].numpy(), weights[:4])
        backwards = run_gru(x[clip].numpy()[::-1], weights[4:])[::-1]
        np.testing.assert_allclose(out[clip], np.concatenate([forwards, backwards], axis=1), rtol=0, atol=1e-13)


def test_weights_start_orthogonal_and_biases_at_zero() -> None:
    for parameter in BidirectionalGru(12).parameters():
        if parameter.dim() == 1:
            assert not parameter.any()
        else:
            gram = (parameter.T @ parameter).detach()
            torch.testing.assert_close(gram, torch.eye(len(gram)) * gram[0, 0], atol=1e-5, rtol=0)


def test_parameters_are_as_published() -> None:
    with torch.device("meta"):
        model = Crnn(CrnnConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_520_702
    assert sum(parameter.numel() for parameter in model.recurrent.parameters()) == 4_724_736


@pytest.mark.parametrize(
    ("training", "gradients", "by_cudnn"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_cudnn_is_switched_off_where_it_could_not_run_backward(training: bool, gradients: bool, by_cudnn: bool) -> None:
    layer = BidirectionalGru(8).train(training)
    seen: list[bool] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(torch.backends.cudnn.enabled)

    layer.gru.register_forward_pre_hook(note)
    before = torch.backends.cudnn.enabled
    with torch.set_grad_enabled(gradients):
        layer(torch.zeros(1, 3, 8))
    assert seen == [by_cudnn]
    assert torch.backends.cudnn.enabled == before


def test_scores_do_not_depend_on_the_switch() -> None:
    model = small_model("crnn").eval()
    clips = random_clips(2)
    with torch.no_grad():
        expected = model(clips)
    torch.testing.assert_close(model(clips).detach(), expected, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_backward_in_eval_mode_on_a_gpu() -> None:
    """Logits are those of cuDNN, and the gradient by the input is the CPU's."""
    model = small_model("crnn").double().eval()
    clips = random_clips(2, dtype=torch.float64)
    on_cpu = clips["logmel"].requires_grad_()
    model({"logmel": on_cpu}).sum().backward()
    model.cuda()
    on_gpu = clips["logmel"].detach().cuda().requires_grad_()
    scores = model({"logmel": on_gpu})
    scores.sum().backward()
    with torch.no_grad():
        by_cudnn = model({"logmel": on_gpu})
    torch.testing.assert_close(scores.detach(), by_cudnn, rtol=0, atol=1e-10)
    assert on_gpu.grad is not None and on_cpu.grad is not None and on_cpu.grad.abs().max() > 0
    torch.testing.assert_close(on_gpu.grad.cpu(), on_cpu.grad, rtol=1e-8, atol=1e-12)
