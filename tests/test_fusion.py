"""The four fusions: published sizes, which numbers meet which, and the heads of blending."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from small_models import VIDEO_DIM, random_clips, small_model, stir_batch_norms
from torch import Tensor, nn

from models.fusion import EarlyFusion, LateFusion, MidFusion, MidFusionConfig
from models.registry import build


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("early", {"video_dim": 512}, 18_390_142),
        ("early", {"video_dim": 2048}, 21_535_870),
        ("mid1", {"video_dim": 512, "video_transform": "raw"}, 23_108_734),
        ("mid1", {"video_dim": 2048, "video_transform": "raw"}, 24_681_598),
        ("mid2", {"video_dim": 512, "video_transform": "raw"}, 23_108_734),
        ("mid2", {"video_dim": 2048, "video_transform": "raw"}, 24_681_598),
        # Mid 1 with raw embeddings, whose 512 or 2048 of the projection become 1024, and the transform itself.
        ("mid1", {"video_dim": 512}, 23_108_734 + 512 * 1024 + (3 * 512**2 + 512) + (512 * 1024 + 1024)),
        ("mid1", {"video_dim": 2048}, 24_681_598 - 1024 * 1024 + (3 * 2048**2 + 2048) + (2048 * 1024 + 1024)),
        # The CSN and the video-only model, whole.
        ("late", {"video_dim": 512}, 12_097_662 + 8_694_302),
        ("late", {"video_dim": 512, "shared_blocks": False}, 18_399_358 + 8_694_302 + 6_301_696),
    ],
)
def test_parameters_are_as_published(name: str, options: dict[str, object], parameters: int) -> None:
    with torch.device("meta"):
        model = build(name, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def inputs_of(module: nn.Module, model: nn.Module, clips: dict[str, Tensor]) -> Tensor:
    """What the module is given when the model scores the clips."""
    caught: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    model(clips)
    handle.remove()
    [x] = caught
    return x


@pytest.mark.parametrize(("video_dim", "columns"), [(512, 384), (2048, 576), (16, 352)])
def test_early_rows_hold_an_eighth_of_a_second_of_both(video_dim: int, columns: int) -> None:
    model = small_model("early", video_dim=video_dim).eval()
    assert isinstance(model, EarlyFusion)
    clips = {**random_clips(2), "video": torch.randn(2, 10, video_dim)}
    picture = inputs_of(model.convs, model, clips)
    assert picture.shape == (2, 80, columns)
    eighth = video_dim // 8
    for row in (0, 1, 37, 79):
        sound = clips["logmel"][:, 5 * row : 5 * row + 5].flatten(1)
        start = (row % 8) * eighth
        embedding = clips["video"][:, row // 8, start : start + eighth]
        assert torch.equal(picture[:, row, :320], sound)
        assert torch.equal(picture[:, row, 320 : 320 + eighth], embedding)
        assert not picture[:, row, 320 + eighth :].any()
    assert inputs_of(model.projection, model, clips).shape == (2, 20, columns // 32 * 32)


def test_early_reads_the_last_number_of_every_embedding() -> None:
    """Without widening, the poolings would drop the two columns that embeddings of 16 fill."""
    model = small_model("early").double().eval()
    stir_batch_norms(model)
    clips = random_clips(1, dtype=torch.float64)
    clips["video"].requires_grad_()
    model(clips).sum().backward()
    assert clips["video"].grad is not None
    # Max-pooling passes no gradient where another value is larger; all but a few numbers are read.
    assert (clips["video"].grad != 0).double().mean() > 0.5


@pytest.mark.parametrize("name", ["mid1", "mid2"])
@pytest.mark.parametrize(("transform", "video_length"), [("raw", VIDEO_DIM), ("conv1d", 64)])
def test_mid_windows_meet_their_own_second_of_sound(name: str, transform: str, video_length: int) -> None:
    model, clips = small_model(name, video_transform=transform).eval(), random_clips(2)
    assert isinstance(model, MidFusion)
    frames = model.convs(clips["logmel"])
    if name == "mid2":
        frames = model.transformer(frames)
    state = model.encode_video(clips["video"])
    assert state is not None and state.shape == (2, 10, video_length)
    if transform == "raw":
        assert torch.equal(state, clips["video"])
    fused = inputs_of(model.projection, model, clips)
    assert fused.shape == (2, 10, 640 + video_length)
    for window in range(10):
        sound = frames[:, 10 * window : 10 * window + 10].flatten(1)
        torch.testing.assert_close(fused[:, window], torch.cat([sound, state[:, window]], dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mid1", "mid2"])
def test_mid_fusions_differ_in_where_the_transformer_is(name: str) -> None:
    model, clips = small_model(name).eval(), random_clips(2)
    assert isinstance(model, MidFusion)
    assert inputs_of(model.transformer, model, clips).shape == (2, {"mid1": 10, "mid2": 100}[name], 64)
    pooled = inputs_of(model.pooling, model, clips)
    assert pooled.shape == (2, 10, 64)
    if name == "mid2":
        assert pooled.min() == 0, "a ReLU after the projection"


@pytest.mark.parametrize("share", [0.6, 0.25])
def test_late_mixes_the_probabilities_of_its_branches(share: float) -> None:
    model, clips = small_model("late", audio_share=share).double().eval(), random_clips(4, dtype=torch.float64)
    assert isinstance(model, LateFusion)
    sound, picture = (scipy.special.expit(branch(clips).detach().numpy()) for branch in (model.audio, model.video))
    expected = scipy.special.logit(share * sound + (1 - share) * picture)
    np.testing.assert_allclose(model(clips).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_late_branches_take_the_weights_of_models_trained_alone() -> None:
    late, sound, picture = small_model("late"), small_model("csn", seed=3), small_model("video", seed=4)
    assert isinstance(late, LateFusion)
    late.audio.load_state_dict(sound.state_dict())
    late.video.load_state_dict(picture.state_dict())
    clips = random_clips(2)
    assert torch.equal(late.eval().audio(clips), sound.eval()(clips))
    assert torch.equal(late.video(clips), picture.eval()(clips))


@pytest.mark.parametrize("name", ["mid1", "mid2"])
def test_blending_adds_a_head_for_each_side(name: str) -> None:
    plain, model = small_model(name).eval(), small_model(name, blending=True).eval()
    clips, other = random_clips(3), random_clips(3, seed=5)
    heads = model.forward_heads(clips)
    assert model.head_weights == {"joint": 0.377, "audio": 0.239, "visual": 0.384}
    assert set(heads) == set(model.head_weights)
    assert torch.equal(heads["joint"], model(clips))
    crossed = model.forward_heads({"logmel": clips["logmel"], "video": other["video"]})
    assert torch.equal(crossed["audio"], heads["audio"]) and not torch.equal(crossed["joint"], heads["joint"])
    crossed = model.forward_heads({"logmel": other["logmel"], "video": clips["video"]})
    assert torch.equal(crossed["visual"], heads["visual"]) and not torch.equal(crossed["audio"], heads["audio"])
    added = set(dict(model.named_parameters())) - set(dict(plain.named_parameters()))
    assert {parameter.partition(".")[0] for parameter in added} == {"audio_pooling", "visual_pooling"}


def test_blending_heads_send_back_their_own_gradient_unbalanced() -> None:
    """Balancing is between the two sides of the joint loss; with that loss left out it must do nothing."""
    clips = random_clips(2, dtype=torch.float64)
    gradients = []
    for balanced in (True, False):
        model = small_model("mid1", blending=True, balance_gradients=balanced, dropout=0.0).double()
        heads = model.forward_heads(clips)
        (heads["audio"].sum() + 3 * heads["visual"].sum()).backward()
        reached = {
            name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert reached == {"convs", "transform", "audio_pooling", "visual_pooling"}
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-3
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("field", "value"), [("blend_audio", -0.1), ("blend_joint", 0.5), ("blend_visual", float("inf"))]
)
def test_blending_weights_must_be_a_division_of_one(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"MidFusionConfig\.blend_\w+: .* expected"):
        MidFusionConfig(**{field: value})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_late_share_must_leave_something_to_both(share: float) -> None:
    with pytest.raises(ValueError, match="audio_share: above 0 and below 1 expected"):
        small_model("late", audio_share=share)
