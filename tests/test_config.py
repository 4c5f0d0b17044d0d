"""Configs refuse what no model can be built from, and say what they expected."""

from __future__ import annotations

import dataclasses

import pytest

from models.config import EmbeddingConfig, ModelConfig, TransformerConfig, VideoConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("classes", 0, "at least 1"),
        ("classes", 5.0, "an integer"),
        ("classes", True, "an integer"),
        ("classes", "527", "an integer"),
        ("width", 0.0, "multiple of 1/32"),
        ("width", -1.0, "multiple of 1/32"),
        ("width", 0.1, "multiple of 1/32"),
        ("width", 1 / 64, "multiple of 1/32"),
        ("width", float("nan"), "a finite number"),
        ("width", "1", "a finite number"),
        ("width", True, "a finite number"),
        ("dropout", 1.0, "below 1"),
        ("dropout", -0.1, "at least 0"),
        ("shared_blocks", 1, "true or false"),
        ("video_dim", 0, "multiple of 8"),
        ("video_dim", 12, "multiple of 8"),
        ("video_dim", None, "an integer"),
        ("video_transform", "conv2d", "one of 'conv1d', 'raw'"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError) as raised:
        VideoConfig(**{field: value})
    assert f"VideoConfig.{field}: " in str(raised.value)
    assert expected in str(raised.value) and repr(value) in str(raised.value)


def test_whole_numbers_are_fine_where_numbers_are_asked_for() -> None:
    """JSON writes 1.0 as 1 in some languages."""
    assert TransformerConfig(width=1, dropout=0).scaled(64) == 64


@pytest.mark.parametrize("width", [1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 1, 2])
def test_widths_scale_exactly(width: float) -> None:
    config = ModelConfig(width=width)
    assert config.scaled(32) == 32 * width
    assert config.scaled(1024) % 8 == 0, "eight heads must divide it"


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EmbeddingConfig().video_dim = 1024  # type: ignore[misc]
