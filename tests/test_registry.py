"""Models by name, and configs that go through JSON."""

from __future__ import annotations

import io
import json

import pytest
import torch
from small_models import NAMES, random_clips, small_model
from torch import Tensor

from models.recogniser import Recogniser
from models.registry import MODELS, build, build_from_config, config_dict, field_names

OPTIONS: dict[str, dict[str, object]] = {
    "csn": {"shared_blocks": False, "dropout": 0.1},
    "crnn": {"classes": 11},
    "resnet50": {"width": 0.125},
    "video": {"video_transform": "raw", "video_dim": 32},
    "early": {"video_dim": 256},
    "mid1": {"blending": True, "blend_audio": 0.2, "blend_visual": 0.3, "blend_joint": 0.5},
    "mid2": {"balance_gradients": False},
    "late": {"audio_share": 0.5},
}


def test_the_eight_names() -> None:
    assert list(MODELS) == ["csn", "crnn", "resnet50", "video", "early", "mid1", "mid2", "late"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_goes_through_json_and_gives_the_same_model(name: str) -> None:
    model = small_model(name, **OPTIONS[name])
    config = json.loads(json.dumps(config_dict(model), allow_nan=False))
    assert config["model"] == name
    assert config.items() >= OPTIONS[name].items()
    again = build_from_config(config)
    assert type(again) is type(model) and again.config == model.config and again.head_weights == model.head_weights
    stored = io.BytesIO()
    torch.save({"config": config, "weights": model.state_dict()}, stored)
    stored.seek(0)
    again.load_state_dict(torch.load(stored, weights_only=True)["weights"])
    clips = random_clips(1)
    clips["video"] = torch.randn(1, 10, config.get("video_dim", 16))
    assert torch.equal(again.eval()(clips), model.eval()(clips))


@pytest.mark.parametrize("name", NAMES)
def test_fields_left_out_have_their_defaults(name: str) -> None:
    with torch.device("meta"):
        model = build_from_config({"model": name})
    assert model.config == MODELS[name].config()
    assert model.config.classes == 527 and model.config.width == 1
    if "dropout" in field_names(name):
        assert config_dict(model)["dropout"] == 0.75


def test_unknown_names_are_answered_with_those_that_exist() -> None:
    for call in (build, field_names):
        with pytest.raises(ValueError, match="csn, crnn, resnet50, video, early, mid1, mid2, late expected, got 'vgg'"):
            call("vgg")
    with pytest.raises(ValueError, match="'model' expected, one of csn, crnn"):
        build_from_config({"width": 1.0})


def test_unknown_fields_are_answered_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match="model crnn: fields classes, width expected, got 'dropout', 'depth'"):
        build("crnn", dropout=0.5, width=0.5, depth=3)
    with pytest.raises(ValueError, match="got 'optimizer'"):
        build_from_config({**config_dict(small_model("csn")), "optimizer": "adam"})


def test_values_are_checked() -> None:
    with pytest.raises(ValueError, match=r"CsnConfig\.width: a positive multiple of 1/32 expected, got 0\.3"):
        build("csn", width=0.3)


def test_models_that_are_not_in_the_registry_have_no_config_dict() -> None:
    class Silent(Recogniser):
        def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
            return logmel.mean(dim=(1, 2))[:, None]

    with pytest.raises(ValueError, match="got Silent"):
        config_dict(Silent(small_model("csn").config))


def test_weights_follow_the_default_generator() -> None:
    one, same, other = (small_model("mid1", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["projection.weight"], other["projection.weight"])
