"""The video side against numpy and torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import VIDEO_DIM, random_clips, small_model
from torch import nn

from models.video import TemporalProjection, VideoOnly, VideoOnlyConfig, video_transform


def test_temporal_projection_equals_numpy() -> None:
    """Zeros before the first window and after the last; ReLU between convolution and linear map."""
    projection = TemporalProjection(6, 4).double()
    video = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = projection.convolution.weight.detach().numpy()
    bias, weight = projection.convolution.bias.detach().numpy(), projection.linear.weight.detach().numpy()  # type: ignore[union-attr]
    padded = np.pad(video.numpy(), ((0, 0), (1, 1), (0, 0)))
    convolved = np.stack(
        [
            sum(padded[:, window + tap] @ kernel[:, :, tap].T for tap in range(3)) + bias
            for window in range(10)
        ],
        axis=1,
    )  # fmt: skip
    expected = np.maximum(convolved, 0) @ weight.T + projection.linear.bias.detach().numpy()
    np.testing.assert_allclose(projection(video).detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("transform", "dim"), [("conv1d", 512), ("raw", 2048)])
def test_transform_says_how_long_its_vectors_are(transform: str, dim: int) -> None:
    config = VideoOnlyConfig(width=0.5, video_dim=2048, video_transform=transform)  # type: ignore[arg-type]
    with torch.device("meta"):
        module, length = video_transform(config)
        assert length == dim
        assert module(torch.empty(3, 10, 2048)).shape == (3, 10, dim)


def block(dim: int, hidden: int) -> int:
    attention = 4 * (dim * dim + dim)
    return attention + (dim * hidden + hidden) + (hidden * dim + dim) + 4 * dim


@pytest.mark.parametrize(
    ("dim", "transform", "parameters"),
    [
        # Convolution, linear map, a block at 1024, two linear maps of the pooling.
        (512, "conv1d", (3 * 512 * 512 + 512) + (512 * 1024 + 1024) + block(1024, 1024) + 2 * (1024 * 527 + 527)),
        (2048, "conv1d", (3 * 2048**2 + 2048) + (2048 * 1024 + 1024) + block(1024, 1024) + 2 * (1024 * 527 + 527)),
        # The released `videoModel`: a block at D, a linear map to 1024, the pooling.
        (512, "raw", block(512, 1024) + (512 * 1024 + 1024) + 2 * (1024 * 527 + 527)),
        (2048, "raw", block(2048, 1024) + (2048 * 1024 + 1024) + 2 * (1024 * 527 + 527)),
    ],
)
def test_parameters(dim: int, transform: str, parameters: int) -> None:
    with torch.device("meta"):
        model = VideoOnly(VideoOnlyConfig(video_dim=dim, video_transform=transform))  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_raw_blocks_work_on_the_embeddings_and_a_relu_layer_follows() -> None:
    model = small_model("video", video_transform="raw").eval()
    assert isinstance(model, VideoOnly) and isinstance(model.projection, nn.Sequential)
    video = random_clips(2)["video"]
    [shared] = model.transformer.blocks
    frames = model.projection[0](shared(shared(video)))
    assert frames.shape == (2, 10, 64) and (frames < 0).any()
    torch.testing.assert_close(model({"video": video}), model.pooling(frames.clamp(min=0)), rtol=0, atol=0)


@pytest.mark.parametrize("windows", [1, 9, 11, 20])
def test_other_numbers_of_windows_are_refused(windows: int) -> None:
    with pytest.raises(ValueError, match=rf"float \[B, 10, {VIDEO_DIM}\] expected.*{windows}"):
        small_model("video")({"video": torch.zeros(2, windows, VIDEO_DIM)})
