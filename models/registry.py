"""The recognisers by name, and the way from a model to plain data and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from models.config import ModelConfig
from models.crnn import Crnn, CrnnConfig
from models.csn import Csn, CsnConfig
from models.fusion import (
    EarlyFusion,
    EarlyFusionConfig,
    LateFusion,
    LateFusionConfig,
    MidFusion1,
    MidFusion2,
    MidFusionConfig,
)
from models.recogniser import Recogniser
from models.resnet import ResNet50, ResNetConfig
from models.video import VideoOnly, VideoOnlyConfig


@dataclass(frozen=True)
class Entry:
    """A recogniser and the config that it is built from."""

    config: type[ModelConfig]
    model: type[Recogniser]


MODELS: Mapping[str, Entry] = {
    "csn": Entry(CsnConfig, Csn),
    "crnn": Entry(CrnnConfig, Crnn),
    "resnet50": Entry(ResNetConfig, ResNet50),
    "video": Entry(VideoOnlyConfig, VideoOnly),
    "early": Entry(EarlyFusionConfig, EarlyFusion),
    "mid1": Entry(MidFusionConfig, MidFusion1),
    "mid2": Entry(MidFusionConfig, MidFusion2),
    "late": Entry(LateFusionConfig, LateFusion),
}


def entry_of(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in MODELS:
        raise ValueError(f"model: one of {', '.join(MODELS)} expected, got {name!r}")
    return MODELS[name]


def field_names(name: str) -> tuple[str, ...]:
    """What a model's config has, in order: for programs that pass on what the model knows and nothing else.

    Raises:
        ValueError: no model of that name.
    """
    return tuple(field.name for field in fields(entry_of(name).config))


def build(name: str, **overrides: Any) -> Recogniser:
    """A recogniser with new weights, drawn from torch's default generator; in training mode, on the default device.

    Args:
        name: a name of `MODELS`.
        overrides: fields of its config; the others have their defaults.

    Raises:
        ValueError: no model of that name, no such field, or a value that it cannot have.
    """
    entry = entry_of(name)
    known = field_names(name)
    unknown = [field for field in overrides if field not in known]
    if unknown:
        raise ValueError(f"model {name}: fields {', '.join(known)} expected, got {', '.join(map(repr, unknown))}")
    return entry.model(entry.config(**overrides))


def config_dict(model: Recogniser) -> dict[str, Any]:
    """A model's name, as 'model', and its config's fields: strings, numbers and booleans, as JSON has them.

    Raises:
        ValueError: the model is of no registered class.
    """
    for name, entry in MODELS.items():
        if type(model) is entry.model:
            return {"model": name, **asdict(model.config)}
    raise ValueError(f"a model of the registry expected ({', '.join(MODELS)}), got {type(model).__name__}")


def build_from_config(config: Mapping[str, Any]) -> Recogniser:
    """The recogniser that `config_dict` described, with new weights. Fields left out have their defaults.

    Raises:
        ValueError: 'model' is missing or unknown, or as `build`.
    """
    if "model" not in config:
        raise ValueError(f"model config: 'model' expected, one of {', '.join(MODELS)}; got {', '.join(config)}")
    return build(config["model"], **{name: value for name, value in config.items() if name != "model"})
