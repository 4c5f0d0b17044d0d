"""The frozen encoder against the plain network: folding, memory order, arithmetic, windows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.clip_encoder import ClipEncoder, FactoredConv3d, split_windows
from models.r2plus1d import ARCHITECTURES, build_network, load_state, random_state

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def trained_looking_state(name: str) -> dict[str, Tensor]:
    """Random weights whose BatchNorms have statistics and offsets as a trained network's have."""
    generator = torch.Generator().manual_seed(7)
    state = random_state(name, 0)
    for key, tensor in state.items():
        if key.endswith(("running_mean", ".bias")):
            tensor.normal_(0.0, 0.2, generator=generator)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() == 1 and key.endswith(".weight"):
            tensor.mul_(torch.empty_like(tensor).uniform_(0.8, 1.2, generator=generator))
    return state


def some_frames(windows: int = 2, frames: int = 8, size: int = 56) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(windows, 3, frames, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(frames, size, size), mode="trilinear")
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def plain_embedding(name: str, state: dict[str, Tensor], frames: Tensor) -> Tensor:
    """By the network as torchvision builds it, contiguous, with its BatchNorms, on torchvision's own preprocessing."""
    network = build_network(name)
    load_state(network, state)
    size = frames.shape[2]
    preset = torchvision.transforms._presets.VideoClassification(crop_size=(size, size), resize_size=(size, size))
    video = torch.stack([preset(window.permute(0, 3, 1, 2)) for window in frames]).contiguous()
    with torch.inference_mode():
        return network(video)


@pytest.fixture(scope="module")
def small_state() -> dict[str, Tensor]:
    return trained_looking_state("r2plus1d_18")


@pytest.fixture(scope="module")
def small_encoder(small_state: dict[str, Tensor]) -> ClipEncoder:
    return ClipEncoder("r2plus1d_18", small_state)


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def case(request: pytest.FixtureRequest) -> Iterator[tuple[str, dict[str, Tensor], Tensor]]:
    """An architecture, its state, and what the plain network makes of `some_frames()`; the deepest one is shortened."""
    name = request.param
    with pytest.MonkeyPatch.context() as patch:
        if name == "r2plus1d_152":
            patch.setitem(ARCHITECTURES, name, replace(ARCHITECTURES[name], layers=(2, 2, 1, 1)))
        state = trained_looking_state(name)
        yield name, state, plain_embedding(name, state, some_frames())


def test_float32_agrees_with_the_plain_network(case: tuple[str, dict[str, Tensor], Tensor]) -> None:
    name, state, plain = case
    encoder = ClipEncoder(name, state, dtype="float32")
    assert not any(isinstance(module, (nn.BatchNorm3d, nn.Conv3d)) for module in encoder.modules())
    embedding = encoder(some_frames())
    assert embedding.shape == (2, ARCHITECTURES[name].dim) == (2, encoder.dim) and embedding.dtype == torch.float32
    assert (embedding - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_bfloat16_keeps_the_direction(case: tuple[str, dict[str, Tensor], Tensor]) -> None:
    name, state, plain = case
    embedding = ClipEncoder(name, state)(some_frames())
    assert nn.functional.cosine_similarity(embedding, plain).min() >= 0.9999
    assert not torch.allclose(embedding, plain, rtol=1e-4, atol=0)


def test_float16_keeps_the_direction(small_state: dict[str, Tensor]) -> None:
    plain = plain_embedding("r2plus1d_18", small_state, some_frames())
    embedding = ClipEncoder("r2plus1d_18", small_state, dtype="float16")(some_frames())
    assert nn.functional.cosine_similarity(embedding, plain).min() >= 0.9999


@pytest.mark.slow
def test_152_layers_agree_with_the_plain_network() -> None:
    state = trained_looking_state("r2plus1d_152")
    plain = plain_embedding("r2plus1d_152", state, some_frames())
    embedding = ClipEncoder("r2plus1d_152", state, dtype="float32")(some_frames())
    assert (embedding - plain).abs().max() <= 1e-5 * plain.abs().max()
    rounded = ClipEncoder("r2plus1d_152", state)(some_frames())
    assert nn.functional.cosine_similarity(rounded, plain).min() >= 0.9999


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((1, 3, 3), (1, 1, 1), (0, 1, 1)),
        ((1, 7, 7), (1, 2, 2), (0, 3, 3)),
        ((3, 1, 1), (1, 1, 1), (1, 0, 0)),
        ((3, 1, 1), (2, 1, 1), (1, 0, 0)),
        ((1, 1, 1), (2, 2, 2), (0, 0, 0)),
    ],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_factored_convolution_is_the_3d_one(
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    padding: tuple[int, int, int],
    memory_format: torch.memory_format,
) -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv3d(6, 10, kernel, stride, padding).requires_grad_(False)
    for parameter in convolution.parameters():
        parameter.normal_(generator=generator)
    x = torch.randn(2, 6, 7, 9, 11, generator=generator).to(memory_format=memory_format)
    torch.testing.assert_close(FactoredConv3d(convolution)(x), convolution(x), atol=1e-4, rtol=1e-5)


def test_a_full_3d_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3, 3, 3"):
        FactoredConv3d(nn.Conv3d(3, 4, 3))


def test_wide_weights_stand_for_units_that_a_cpu_lacks(
    small_encoder: ClipEncoder, small_state: dict[str, Tensor]
) -> None:
    """bfloat16 numbers multiplied in float32 and rounded once agree with PyTorch's own bfloat16 convolutions as well as
    these agree with float32: kernels for different units add in different orders."""
    wide, own = copy.deepcopy(small_encoder), copy.deepcopy(small_encoder)
    wide.stages.float()
    own.stages.to(torch.bfloat16)
    frames = some_frames(windows=1, size=32)
    found = {"wide": wide(frames), "own": own(frames), "plain": plain_embedding("r2plus1d_18", small_state, frames)}

    def apart(one: str, other: str) -> float:
        return 1 - nn.functional.cosine_similarity(found[one].double(), found[other].double()).item()

    assert 1e-6 < apart("own", "plain") < 5e-5
    assert apart("wide", "plain") < 1.5 * apart("own", "plain")
    assert apart("wide", "own") < apart("own", "plain")


def test_an_embedding_depends_on_its_own_window_only(small_encoder: ClipEncoder) -> None:
    frames = some_frames(windows=3, size=32)
    together = small_encoder(frames)
    assert torch.equal(together, torch.cat([small_encoder(frames[i : i + 1]) for i in range(3)]))
    assert not torch.equal(together[0], together[1])


def test_windows_in_one_pass_agree_with_one_by_one(small_encoder: ClipEncoder) -> None:
    frames = some_frames(windows=3, size=32)
    one_pass = copy.deepcopy(small_encoder)
    one_pass.windows_per_pass = 2
    assert nn.functional.cosine_similarity(one_pass(frames), small_encoder(frames)).min() > 0.99999


def test_the_encoder_is_frozen(small_encoder: ClipEncoder) -> None:
    assert not small_encoder.training
    assert not any(parameter.requires_grad for parameter in small_encoder.parameters())
    assert small_encoder(some_frames(windows=1, size=32)).is_inference()


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(8, 32, 32, 3, dtype=torch.uint8),
        torch.zeros(1, 8, 32, 32, 3),
        torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8),
        torch.zeros(0, 8, 32, 32, 3, dtype=torch.uint8),
    ],
)
def test_wrong_frames_are_refused(small_encoder: ClipEncoder, frames: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        small_encoder(frames)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16, float16, float32"):
        ClipEncoder("r2plus1d_18", {}, dtype="int8")


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_plain_network() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    state = trained_looking_state("r2plus1d_34")
    frames = some_frames(windows=4, frames=32, size=112)
    plain = plain_embedding("r2plus1d_34", state, frames)
    for dtype, at_least in (("float32", 0.999999), ("bfloat16", 0.9999), ("float16", 0.9999)):
        encoder = ClipEncoder("r2plus1d_34", state, dtype=dtype, device="cuda")
        embedding = encoder(frames)
        assert torch.equal(embedding, encoder(frames))
        assert nn.functional.cosine_similarity(embedding.cpu(), plain).min() >= at_least


def numbered(count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(count).reshape(-1, 1, 1, 1), (count, 2, 2, 3)).astype(np.uint16)


def test_the_papers_windows() -> None:
    windows, real = split_windows(numbered(300), frames_per_window=32, windows=10)
    assert windows.shape == (10, 32, 2, 2, 3) and real == 10
    numbers = windows[..., 0, 0, 0]
    assert numbers[:9].reshape(-1).tolist() == list(range(288))
    assert numbers[9].tolist() == [*range(288, 300), *[299] * 20]


@pytest.mark.parametrize(
    ("frames", "real"), [(1, 1), (31, 1), (32, 1), (33, 2), (288, 9), (289, 10), (320, 10), (400, 10)]
)
def test_real_windows_are_those_that_hold_a_real_frame(frames: int, real: int) -> None:
    windows, counted = split_windows(numbered(frames), frames_per_window=32, windows=10)
    assert counted == real
    assert windows.shape == (10, 32, 2, 2, 3)
    numbers = windows[..., 0, 0, 0].reshape(-1)
    assert numbers.tolist() == [min(index, frames - 1) for index in range(320)]


@pytest.mark.parametrize(("shape", "k", "n"), [((0, 2, 2, 3), 32, 10), ((5, 2, 3), 32, 10), ((5, 2, 2, 3), 0, 1)])
def test_no_windows_without_frames(shape: tuple[int, ...], k: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        split_windows(np.zeros(shape, np.uint8), k, n)
