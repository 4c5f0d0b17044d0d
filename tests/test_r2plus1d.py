"""The R(2+1)D networks against the published files' names and shapes, torchvision's own net and known counts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.r2plus1d import ARCHITECTURES, build_network, load_state, random_state

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def published_names_and_shapes(shared_data: Path) -> dict[str, tuple[int, ...]]:
    lines = (shared_data / "ig65m_r2plus1d_34_state_dict.txt").read_text().splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split(" ", 1) for line in lines)}


def parameters_of(network: nn.Module, but: str = " ") -> int:
    return sum(tensor.numel() for name, tensor in network.named_parameters() if not name.startswith(but))


def giga_multiply_adds(name: str, frames: int, size: int) -> float:
    with FlopCounterMode(display=False) as counter:
        build_network(name)(torch.empty(1, 3, frames, size, size, device="meta"))
    return counter.get_total_flops() / 2e9


def test_r2plus1d_34_has_the_published_names_and_shapes_in_order(shared_data: Path) -> None:
    published = published_names_and_shapes(shared_data)
    built = {name: tuple(tensor.shape) for name, tensor in build_network("r2plus1d_34").state_dict().items()}
    assert len(published) == 416
    assert list(built.items()) == list(published.items())


@pytest.mark.parametrize(
    ("num_classes", "parameters"), [(None, 63_676_142), (359, 63_676_142), (400, 63_697_175), (487, 63_741_806)]
)
def test_r2plus1d_34_counts(num_classes: int | None, parameters: int) -> None:
    network = build_network("r2plus1d_34", num_classes)
    assert parameters_of(network) == parameters
    assert parameters_of(network, but="fc.") == 63_491_975
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm3d)} == {1e-3}


def test_costs_are_those_of_vmz_model_zoo() -> None:
    """The zoo counts 128-pixel input: 49.8 and 199.0 for the 34-layer net, 329.1 and 118.0 M for the 152-layer one."""
    assert giga_multiply_adds("r2plus1d_34", 32, 112) == pytest.approx(152.4, abs=0.05)
    assert giga_multiply_adds("r2plus1d_34", 32, 128) == pytest.approx(199.0, abs=0.05)
    assert giga_multiply_adds("r2plus1d_34", 8, 128) == pytest.approx(49.8, abs=0.1)
    assert giga_multiply_adds("r2plus1d_152", 32, 128) == pytest.approx(329.1, abs=0.05)
    assert parameters_of(build_network("r2plus1d_152")) == pytest.approx(118.0e6, rel=2e-3)


def test_r2plus1d_18_is_torchvisions() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        reference = torchvision.models.video.r2plus1d_18(weights=None).eval()
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0.0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        video = torch.randn(2, 3, 8, 56, 56)
    network = build_network("r2plus1d_18")
    load_state(network, reference.state_dict())
    reference.fc = nn.Identity()
    with torch.inference_mode():
        torch.testing.assert_close(network(video), reference(video), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_dim_is_what_comes_out(name: str) -> None:
    network = build_network(name)
    network.fc = nn.Identity()
    assert network(torch.empty(2, 3, 8, 32, 32, device="meta")).shape == (2, ARCHITECTURES[name].dim)


def test_random_state_is_a_function_of_its_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (random_state("r2plus1d_18", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layer3.0.conv1.0.0.weight"], other["layer3.0.conv1.0.0.weight"])
    assert set(first) == {name for name in build_network("r2plus1d_18").state_dict() if not name.startswith("fc.")}


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_34", pytest.param("r2plus1d_152", marks=pytest.mark.slow)])
def test_random_activations_neither_vanish_nor_explode(name: str) -> None:
    network = build_network(name)
    load_state(network, random_state(name, 0))
    x = torch.randn(1, 3, 8, 40, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for stage in ("stem", "layer1", "layer2", "layer3", "layer4"):
            x = network.get_submodule(stage)(x)
            assert 0.2 < x.std().item() < 20.0


@pytest.fixture(scope="module")
def fitting_state() -> dict[str, Tensor]:
    return random_state("r2plus1d_18", 0)


@pytest.mark.parametrize("classes", [359, 400, 487])
def test_a_classifier_of_any_size_is_dropped(fitting_state: dict[str, Tensor], classes: int) -> None:
    network = build_network("r2plus1d_18")
    load_state(network, fitting_state | {"fc.weight": torch.zeros(classes, 512), "fc.bias": torch.zeros(classes)})
    assert isinstance(network.fc, nn.Identity)


def test_half_precision_and_files_without_batch_counts_load(fitting_state: dict[str, Tensor]) -> None:
    state = {name: tensor.half() for name, tensor in fitting_state.items() if not name.endswith("batches_tracked")}
    network = build_network("r2plus1d_18")
    load_state(network, state)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_a_misfit_is_refused_in_one_error_that_lists_the_names(fitting_state: dict[str, Tensor]) -> None:
    state = dict(fitting_state)
    del state["stem.0.weight"]
    state["module.stem.0.weight"] = torch.zeros(1)
    state["layer1.0.conv1.1.bias"] = torch.zeros(65)
    with pytest.raises(ValueError) as caught:
        load_state(build_network("r2plus1d_18"), state)
    for words in (
        "1 missing (stem.0.weight)",
        "1 unexpected (module.stem.0.weight)",
        "1 of another shape (layer1.0.conv1.1.bias [65] instead of [64])",
        "r2plus1d_152",
    ):
        assert words in str(caught.value)


def test_the_narrow_midplanes_of_torchvision_are_refused_for_34_layers() -> None:
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in build_network("r2plus1d_34").state_dict().items()
    }
    state["layer2.0.conv2.0.0.weight"] = torch.empty(230, 128, 1, 3, 3, device="meta")
    with pytest.raises(ValueError, match=re.escape("[230, 128, 1, 3, 3] instead of [288, 128, 1, 3, 3]")):
        load_state(build_network("r2plus1d_34"), state)


def test_another_architectures_weights_are_refused_with_the_first_names_only(fitting_state: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError) as caught:
        load_state(build_network("r2plus1d_34"), fitting_state)
    assert "layer1.2.conv1.0.0.weight" in str(caught.value)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("name", "value"), [("layer2.0.conv1.1.weight", float("nan")), ("layer2.0.conv1.1.running_var", -1.0)]
)
def test_broken_values_are_refused(fitting_state: dict[str, Tensor], name: str, value: float) -> None:
    broken = fitting_state[name].clone()
    broken[3] = value
    state = fitting_state | {name: broken}
    with pytest.raises(ValueError, match=re.escape(f"1 not finite floats or a negative variance ({name})")):
        load_state(build_network("r2plus1d_18"), state)


def test_quantised_weights_are_refused(fitting_state: dict[str, Tensor]) -> None:
    state = fitting_state | {"stem.0.weight": torch.zeros(45, 3, 1, 7, 7, dtype=torch.int8)}
    with pytest.raises(ValueError, match=re.escape("1 not finite floats or a negative variance (stem.0.weight)")):
        load_state(build_network("r2plus1d_18"), state)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="r2plus1d_18, r2plus1d_34, r2plus1d_152"):
        build_network("r3d_18")
