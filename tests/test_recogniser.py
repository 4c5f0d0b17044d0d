"""What every recogniser promises, asked of each."""

from __future__ import annotations

import pytest
import torch
from small_models import CLASSES, FUSIONS, NAMES, VIDEO_DIM, WITH_VIDEO, random_clips, small_model, stir_batch_norms
from torch import Tensor, nn

from models.layers import AttentionPooling, ConvStack, SelfAttention
from models.recogniser import Recogniser
from models.registry import MODELS, field_names

VARIANTS = [(name, {}) for name in NAMES] + [
    ("csn", {"shared_blocks": False}),
    *((name, {"video_transform": "raw"}) for name in ("video", "mid1", "mid2", "late")),
    ("mid1", {"blending": True}),
    ("mid2", {"blending": True, "balance_gradients": False}),
]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def label(value: object) -> str:
    return "-".join(f"{key}={value[key]}" for key in value) if isinstance(value, dict) else str(value)


def must_be_without_gradient(model: nn.Module) -> set[str]:
    """RECIPE.md: conv biases before BatchNorm, the key bias, the bias of attention pooling.

    The ResNet's attention is no softmax, and the video's temporal convolution has no BatchNorm: theirs have one.
    """
    names: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, ConvStack):
            convolutions = [inner for inner, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
            names |= {f"{name}.{inner}.bias" for inner in convolutions}
        elif isinstance(module, SelfAttention):
            names.add(f"{name}.key.bias")
        elif type(module) is AttentionPooling:
            names.add(f"{name}.attention.bias")
    return names


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=label)
def test_every_parameter_but_those_of_the_recipe_gets_a_gradient(name: str, options: dict[str, object]) -> None:
    model = small_model(name, **options).double()
    torch.manual_seed(0)  # of dropout, which is on
    heads = model.forward_heads(random_clips(3, dtype=torch.float64))
    targets = torch.rand(3, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    losses = [
        weight * nn.functional.binary_cross_entropy_with_logits(heads[head], targets)
        for head, weight in model.head_weights.items()
    ]
    sum(losses).backward()  # type: ignore[union-attr]
    largest = {name: 0.0 if p.grad is None else p.grad.abs().max().item() for name, p in model.named_parameters()}
    without = must_be_without_gradient(model)
    assert without or name == "resnet50"
    sizes = {name: size / max(largest.values()) for name, size in largest.items()}
    assert {name for name, size in sizes.items() if size < 1e-10} == without


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_what_forward_needs(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(2)
    assert set(model.columns) <= set(clips)
    scores = model({column: clips[column] for column in model.columns})
    assert scores.shape == (2, CLASSES) and scores.dtype == torch.float32
    assert torch.equal(scores, model(clips)), "other columns are ignored"
    for column in model.columns:
        with pytest.raises(ValueError, match=rf"{column}, float .* expected, got none; it reads {model.columns[0]}"):
            model({other: clips[other] for other in clips if other != column})


@pytest.mark.parametrize("name", NAMES)
def test_order_and_company_in_the_batch_do_not_matter_in_eval(name: str) -> None:
    model, clips = small_model(name).double().eval(), random_clips(5, dtype=torch.float64)
    stir_batch_norms(model)
    scores = model(clips)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = model({column: x[order] for column, x in clips.items()})
    torch.testing.assert_close(shuffled, scores[order], rtol=0, atol=1e-12)
    alone = model({column: x[2:3] for column, x in clips.items()})
    torch.testing.assert_close(alone, scores[2:3], rtol=0, atol=1e-12)
    assert scores.std(dim=0).max() > 1e-3, "clips differ"


@pytest.mark.parametrize("name", NAMES)
def test_video_is_encoded_once_for_many_sounds(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(4)
    state = model.encode_video(clips["video"])
    assert (state is None) == (name not in WITH_VIDEO)
    torch.testing.assert_close(model.forward_audio(clips["logmel"], state), model(clips), rtol=0, atol=0)
    if state is None:
        return
    assert len(state) == 4
    other = random_clips(4, seed=9)["logmel"]
    expected = model({"logmel": other, "video": clips["video"]})
    torch.testing.assert_close(model.forward_audio(other, state), expected, rtol=0, atol=0)
    # The states of single clips are rows of the state: an attack caches them and picks.
    picked = model.forward_audio(clips["logmel"][1:3], state[1:3])
    torch.testing.assert_close(picked, model(clips)[1:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scores_depend_on_every_column_and_on_nothing_else(name: str) -> None:
    model = small_model(name).double().eval()
    clips = {column: x.requires_grad_() for column, x in random_clips(2, dtype=torch.float64).items()}
    model(clips).sum().backward()
    for column, x in clips.items():
        if column in model.columns:
            assert x.grad is not None and (x.grad.flatten(1).abs().amax(dim=1) > 0).all()
        else:
            assert x.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_float32_under_autocast_and_close_to_plain(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(4)
    with torch.no_grad():
        plain = model(clips)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fast = model(clips)
    assert fast.dtype == torch.float32
    assert not torch.equal(fast, plain), "the layers before the head run in bfloat16"
    assert (fast - plain).abs().max() < 0.05 * plain.abs().max() + 0.05
    # A score of 8 bits would be among few values; float32 ones have their low bits set.
    assert (fast.view(torch.int32) & 0xFFFF != 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_training_works_under_autocast(name: str) -> None:
    model, clips = small_model(name), random_clips(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model(clips)
    scores.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if "dropout" in field_names(name)])
def test_dropout_draws_from_torchs_default_generator(name: str) -> None:
    model, clips = small_model(name), random_clips(3)
    scores = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        scores.append(model(clips))
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1 / 32, 1 / 8, 1 / 4, 1 / 2])
def test_every_width_runs(name: str, width: float) -> None:
    """The sixteenth is all other tests'; the whole is counted and costed where its numbers are."""
    model = small_model(name, width=width, classes=7).eval()
    with torch.no_grad():
        scores = model(random_clips(1))
    assert scores.shape == (1, 7) and scores.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_statistics_over_the_batch_are_kept_by_plain_batch_norms_only(name: str) -> None:
    """The trainer averages them over a step's groups: it must find them all, and in a form that it knows."""
    model = small_model(name)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == {"video": 0, "resnet50": 53}.get(name, 10)
    buffers = {name.rpartition(".")[2] for name, _ in model.named_buffers()}
    assert buffers <= {"running_mean", "running_var", "num_batches_tracked"}
    assert sum(1 for _ in model.buffers()) == 3 * len(norms)


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_those_that_have_weights(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(2)
    heads = model.forward_heads(clips)
    assert set(heads) == set(model.head_weights) == {"joint"}
    assert torch.equal(heads["joint"], model(clips))


def with_shape(column: str, *shape: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {**random_clips(2), column: torch.zeros(shape, dtype=dtype)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "inputs",
    [
        with_shape("logmel", 2, 400, 128),
        with_shape("logmel", 2, 399, 64),
        with_shape("logmel", 2, 1, 400, 64),
        with_shape("logmel", 2, 400, 64, dtype=torch.int16),
        with_shape("video", 2, 10, VIDEO_DIM + 1),
        with_shape("video", 2, 9, VIDEO_DIM),
        with_shape("video", 2, 10),
    ],
)
def test_other_shapes_are_refused_by_the_models_that_read_them(name: str, inputs: dict[str, Tensor]) -> None:
    model = small_model(name)
    [(column, wrong)] = [(c, x) for c, x in inputs.items() if not torch.equal(x, random_clips(2)[c])]
    if column not in model.columns:
        assert model(inputs).shape == (2, CLASSES)
        return
    with pytest.raises(ValueError) as raised:
        model(inputs)
    message = str(raised.value)
    assert column in message and str(list(wrong.shape)) in message and str(wrong.dtype) in message


@pytest.mark.parametrize("name", FUSIONS)
def test_states_of_other_clips_or_none_are_refused(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(3)
    with pytest.raises(ValueError, match="give encode_video's answer"):
        model.forward_audio(clips["logmel"])
    state = model.encode_video(clips["video"][:1])
    with pytest.raises(ValueError, match="got 3 and 1; repeat"):
        model.forward_audio(clips["logmel"], state)


def test_names_are_of_recognisers() -> None:
    assert all(issubclass(entry.model, Recogniser) for entry in MODELS.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_on_a_gpu_are_those_of_the_cpu(name: str) -> None:
    model = small_model(name).double().eval()
    clips = {column: x.requires_grad_() for column, x in random_clips(2, dtype=torch.float64).items()}
    scores = model(clips)
    scores.sum().backward()
    on_gpu = {column: x.detach().cuda().requires_grad_() for column, x in clips.items()}
    gpu_scores = model.cuda()(on_gpu)
    gpu_scores.sum().backward()
    torch.testing.assert_close(gpu_scores.cpu(), scores, rtol=0, atol=1e-9)
    for column in model.columns:
        torch.testing.assert_close(on_gpu[column].grad.cpu(), clips[column].grad, rtol=1e-6, atol=1e-10)  # type: ignore[union-attr]
