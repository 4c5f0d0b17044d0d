"""The clip encoder: a frozen R(2+1)D network that turns windows of video frames into embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models.video.resnet import VideoResNet

from models.feature_constants import PIXEL_MEAN, PIXEL_STD
from models.r2plus1d import architecture_of, build_network, load_state

DTYPES: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# torch.cpu.get_capabilities() says by these names whether a CPU has units for an arithmetic.
CPU_UNITS: Mapping[str, tuple[str, ...]] = {
    "bfloat16": ("avx512_bf16", "amx_bf16"),
    "float16": ("avx512_fp16", "amx_fp16"),
}


def split_windows(frames: np.ndarray, frames_per_window: int, windows: int) -> tuple[np.ndarray, int]:
    """Cut a clip's frames into consecutive windows; the last real one is filled up by repeating the last frame.

    Args:
        frames: uint8 [M, S, S, 3] with M ≥ 1; those beyond `windows * frames_per_window` are left out.

    Returns:
        uint8 [windows, frames_per_window, S, S, 3], and how many of these windows hold a real frame:
        min(windows, ⌈M / frames_per_window⌉). The others are the last frame too; their embeddings mean nothing.

    Raises:
        ValueError: no frames, another rank, or counts below 1.

    Source: the paper's N = ⌈M / k⌉ windows, section 3.
    """
    if frames.ndim != 4 or len(frames) == 0:
        raise ValueError(
            f"frames: [M, S, S, 3] with M >= 1 expected, got {list(frames.shape)}; a clip without a picture has no "
            "windows: store zeros for it"
        )
    if frames_per_window < 1 or windows < 1:
        raise ValueError(f"at least 1 frame and 1 window expected, got {frames_per_window} and {windows}")
    order = np.minimum(np.arange(windows * frames_per_window), len(frames) - 1)
    real_windows = min(windows, -(-len(frames) // frames_per_window))
    return frames[order].reshape(windows, frames_per_window, *frames.shape[1:]), real_windows


class FactoredConv3d(nn.Module):
    """A 1×k×k, k×1×1 or 1×1×1 `Conv3d` carried out as one `Conv2d` over merged axes.

    On [N, C, T, H, W] in channels_last_3d order the merged axes are views, so nothing is copied. It spares the
    temporal convolutions PyTorch's slow_conv3d, which float32 falls into on one CPU thread.

    Where the weights' dtype is wider than the input's, products and sums are taken in the wider one and the result is
    rounded to the input's: what units for bfloat16 do, on a CPU that has none. There a window of the 34-layer network
    takes 3.3 s in this way and 9.4 s by PyTorch's own bfloat16 convolutions (benchmarks/clip_encoder.py).
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.temporal = convolution.kernel_size[0] > 1
        if self.temporal and (convolution.kernel_size[1:] != (1, 1) or convolution.stride[1:] != (1, 1)):
            raise ValueError(f"1×k×k, k×1×1 or 1×1×1 kernel expected, got {convolution.kernel_size}")
        weight = convolution.weight[..., 0] if self.temporal else convolution.weight[:, :, 0]
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = convolution.bias
        self.stride: tuple[int, ...] = convolution.stride
        self.padding: tuple[int, ...] = convolution.padding  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T, H, W] to [N, C', T', H', W'] of the same dtype."""
        return self._over_time(x) if self.temporal else self._over_space(x)

    def _over_space(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            x = x[:, :, :: self.stride[0]]
        n, c, t, h, w = x.shape
        images = x.transpose(1, 2).reshape(n * t, c, h, w)
        out = self._convolve(images, self.stride[1:], self.padding[1:])
        return out.reshape(n, t, *out.shape[1:]).transpose(1, 2)

    def _over_time(self, x: Tensor) -> Tensor:
        out = self._convolve(x.flatten(3), (self.stride[0], 1), (self.padding[0], 0))
        return out.unflatten(3, x.shape[3:])

    def _convolve(self, x: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Tensor:
        return F.conv2d(x.to(self.weight.dtype), self.weight, self.bias, stride, padding).to(x.dtype)


def fold_batch_norms(network: VideoResNet) -> None:
    """Put every BatchNorm into the convolution before it, and make each convolution a `FactoredConv3d`.

    Names a BatchNorm's convolution by order: in these networks each is registered right after its own.
    """
    modules = dict(network.named_modules())
    last = ""
    for name, module in modules.items():
        if isinstance(module, nn.Conv3d):
            last = name
        elif isinstance(module, nn.BatchNorm3d):
            convolution = cast(nn.Conv3d, modules[last])
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight,
                convolution.bias,
                cast(Tensor, module.running_mean),
                cast(Tensor, module.running_var),
                module.eps,
                module.weight,
                module.bias,
            )
            network.set_submodule(last, FactoredConv3d(convolution))
            network.set_submodule(name, nn.Identity())


def has_units_for(dtype: str, device: torch.device) -> bool:
    """Whether the device multiplies in that arithmetic itself; every GPU that this runs on does."""
    if device.type != "cpu" or dtype == "float32":
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in CPU_UNITS[dtype])


class ClipEncoder(nn.Module):
    """A frozen R(2+1)D network: BatchNorm folded, channels last, in a given arithmetic; its average pool is the output.

    Args:
        architecture: a name of `models.r2plus1d.ARCHITECTURES`.
        state_dict: its weights; a classifier among them is dropped.
        dtype: arithmetic of convolutions and type of activations: 'bfloat16', 'float16' or 'float32' (never TF32).
            Pixels are normalised and the last average is taken in float32.
        windows_per_pass: windows that go through the network at once; None: all of a call on a GPU, one on a CPU,
            where more at once were not faster (3.2 s a window either way) and a window's embedding would depend on
            the size of its call.

    Raises:
        ValueError: unknown architecture or dtype, or weights that do not fit.

    Source: VIDEO.md section 1; Tran et al. 2018 (arXiv:1711.11248), Ghadiyaram et al. 2019 (arXiv:1905.00561).
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        architecture: str,
        state_dict: Mapping[str, Tensor],
        *,
        dtype: str = "bfloat16",
        device: torch.device | str = "cpu",
        windows_per_pass: int | None = None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"encoder dtype: one of {', '.join(DTYPES)} expected, got {dtype!r}")
        device = torch.device(device)
        self.dim = architecture_of(architecture).dim
        self.dtype = DTYPES[dtype]
        self.windows_per_pass = windows_per_pass or (1 if device.type == "cpu" else None)
        network = build_network(architecture)
        load_state(network, state_dict)
        fold_batch_norms(network)
        stages = nn.Sequential(network.stem, network.layer1, network.layer2, network.layer3, network.layer4)
        stages.to(self.dtype)
        self.stages = stages if has_units_for(dtype, device) else stages.float()
        mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1, 1)
        self.register_buffer("pixel_scale", 1.0 / (255.0 * std))
        self.register_buffer("pixel_shift", -mean / std)
        self.to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, frames: Tensor) -> Tensor:
        """Embed windows of frames.

        Args:
            frames: uint8 [W, T, S, S, 3], RGB, on any device.

        Returns:
            float32 [W, dim] on the encoder's device.

        Raises:
            ValueError: another shape or dtype, or no window.
        """
        if frames.dim() != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or len(frames) == 0:
            raise ValueError(
                f"frames: uint8 [windows, frames, size, size, 3] expected, got {frames.dtype} {list(frames.shape)}"
            )
        # What is read twice must be equal: no algorithm chosen by timing, and no TF32 in what is called float32.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            passes = frames.split(self.windows_per_pass or len(frames))
            return torch.cat([self._embed(windows.to(self.pixel_scale.device)) for windows in passes])

    def _embed(self, windows: Tensor) -> Tensor:
        # As a view of [W, T, S, S, 3] this is in channels_last_3d order already.
        pixels = windows.permute(0, 4, 1, 2, 3).float()
        features = self.stages((pixels * self.pixel_scale + self.pixel_shift).to(self.dtype))
        return features.mean(dim=(2, 3, 4), dtype=torch.float32)
