"""The R(2+1)D networks that the clip encoder can be: their table, their weights' names, random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv2Plus1D, R2Plus1dStem, VideoResNet


class OwnMidplanes(Conv2Plus1D):
    """A (2+1)D convolution whose width between its halves follows from its own planes, as in VMZ.

    torchvision computes one width per block, which is too narrow for the second convolution of a stage's first block.

    Source: https://github.com/facebookresearch/VMZ/issues/89, https://github.com/pytorch/vision/issues/1265.
    """

    def __init__(self, in_planes: int, out_planes: int, midplanes: int, stride: int = 1, padding: int = 1) -> None:
        midplanes = (in_planes * out_planes * 27) // (in_planes * 9 + out_planes * 3)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One R(2+1)D network: its residual block, blocks per stage, rule of midplanes, BatchNorm epsilon, classes."""

    block: type[BasicBlock | Bottleneck]
    layers: tuple[int, int, int, int]
    convolution: type[Conv2Plus1D]
    bn_eps: float
    num_classes: int

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return 512 * self.block.expansion


# The classes are those of the published file that each was made for. No max-pooling follows the stem of the deepest:
# VMZ's PyTorch port has one by default, but the network its weights were trained in had none (Caffe2's r3d_model.py
# ends 112-pixel input in a 7x7 average, and the model zoo's 329.1 GFLOPs are 252.0 at 112 pixels only without it).
ARCHITECTURES: Mapping[str, Architecture] = {
    "r2plus1d_18": Architecture(BasicBlock, (2, 2, 2, 2), Conv2Plus1D, bn_eps=1e-5, num_classes=400),
    "r2plus1d_34": Architecture(BasicBlock, (3, 4, 6, 3), OwnMidplanes, bn_eps=1e-3, num_classes=359),
    "r2plus1d_152": Architecture(Bottleneck, (3, 8, 36, 3), OwnMidplanes, bn_eps=1e-3, num_classes=359),
}


def architecture_of(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"clip encoder: one of {', '.join(ARCHITECTURES)} expected, got {name!r}")
    return ARCHITECTURES[name]


def build_network(name: str, num_classes: int | None = None) -> VideoResNet:
    """An R(2+1)D network without weights, on the meta device, in eval mode; see `load_state` and `random_state`.

    Takes float32 [W, 3, T, S, S]; gives [W, num_classes] logits, or after `load_state` [W, dim] embeddings.
    """
    architecture = architecture_of(name)
    with torch.device("meta"):
        network = VideoResNet(
            block=architecture.block,
            conv_makers=[architecture.convolution] * 4,
            layers=list(architecture.layers),
            stem=R2Plus1dStem,
            num_classes=num_classes or architecture.num_classes,
        )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = architecture.bn_eps
    return network.eval().requires_grad_(False)


def load_state(network: VideoResNet, state_dict: Mapping[str, Tensor]) -> None:
    """Give a network its weights and take its classifier away, so that it returns embeddings.

    The classifier (`fc.*`) may be absent or of any size: published files differ in their classes.

    Raises:
        ValueError: names or shapes are not this network's, or values are not finite floating-point numbers.
    """
    expected = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    state = {name: tensor for name, tensor in state_dict.items() if not name.startswith("fc.")}
    for name in expected:
        if name.endswith("num_batches_tracked"):
            # Of no use after training; files older than torch 0.4.1 have none.
            state[name] = torch.zeros((), dtype=torch.int64)
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {list(state[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ],
    }
    if not any(faults.values()):
        faults["not finite floats or a negative variance"] = [
            key for key, tensor in state.items() if _is_broken(key, tensor)
        ]
    if any(faults.values()):
        found = "; ".join(f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)
        raise ValueError(
            f"these weights are not this network's: of its {len(expected)} tensors {found}. Give the state dict of the "
            "same architecture (plain tensors by name, no wrapping 'state_dict' or 'module.'), or choose the "
            f"architecture that the file was made for: {', '.join(ARCHITECTURES)}"
        )
    network.fc = nn.Identity()
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False)


def _is_broken(name: str, tensor: Tensor) -> bool:
    if name.endswith("num_batches_tracked"):
        return False
    # A float64 sum of float32 numbers cannot overflow, and one NaN or infinity shows in it.
    if not (tensor.is_floating_point() and tensor.sum(dtype=torch.float64).isfinite()):
        return True
    return name.endswith("running_var") and bool((tensor < 0).any())


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", …" if len(names) > count else "")


def random_state(name: str, seed: int) -> dict[str, Tensor]:
    """Random weights, a pure function of architecture and seed; the global random state is neither used nor changed.

    He initialisation; the last BatchNorm of each residual branch is scaled by 1/sqrt(blocks of its stage), so that the
    sum of up to 36 branches neither vanishes nor overflows float16.

    Returns:
        float32 tensors by name, as `load_state` takes them; no classifier.

    Source: He et al. 2015 (arXiv:1502.01852); Zhang et al. 2019 (arXiv:1901.09321) for the scaling of branches.
    """
    network = build_network(name)
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, expected in network.state_dict().items():
        if key.startswith("fc."):
            continue
        if expected.dim() == 5:
            state[key] = torch.randn(expected.shape, generator=generator).mul_(
                math.sqrt(2.0 / math.prod(expected.shape[1:]))
            )
        elif key.endswith((".weight", ".running_var")):
            state[key] = torch.ones(expected.shape)
        else:
            state[key] = torch.zeros(expected.shape, dtype=expected.dtype)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = network.get_submodule(stage)
        last = "conv3.1" if isinstance(blocks[0], Bottleneck) else "conv2.1"
        for index in range(len(blocks)):
            state[f"{stage}.{index}.{last}.weight"] /= math.sqrt(len(blocks))
    return state
