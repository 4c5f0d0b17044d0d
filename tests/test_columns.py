"""Columns: every constant that decides values is in the spec, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.columns import EncoderOptions, build_columns, feature_names
from pipeline.weights import EncoderWeights

OPTIONS = EncoderOptions(EncoderWeights("random:0", seed=0))


def column(options: EncoderOptions = OPTIONS, name: str = "r2plus1d_34"):
    return build_columns([name], lambda _: options)[0]


def test_the_published_shapes() -> None:
    logmel, video, deep = build_columns(["logmel", "r2plus1d_34", "r2plus1d_152"], lambda _: OPTIONS)
    assert (logmel.spec.shape, logmel.spec.dtype) == ((400, 64), "float16")
    assert (video.spec.shape, video.spec.dtype) == ((10, 512), "float16")
    assert deep.spec.shape == (10, 2048)
    assert (logmel.sample_rate, logmel.frames) == (16_000, None)
    assert (video.frames.fps, video.frames.size) == (30, 112)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": EncoderWeights("random:1", seed=1)},
        {"weights": EncoderWeights("file", sha256="a" * 64, location="/x")},
        {"dtype": "float32"},
        {"window_frames": 16},
        {"fps": 15.0},
        {"frame_size": 128},
    ],
    ids=str,
)
def test_what_decides_values_changes_the_column(change: dict) -> None:
    assert column(replace(OPTIONS, **change)).name != column().name


def test_where_weights_lie_does_not() -> None:
    here, there = (EncoderWeights(p, sha256="a" * 64, location=p) for p in ("/x/w.pth", "s3://y/w.pth"))
    assert column(replace(OPTIONS, weights=here)).name == column(replace(OPTIONS, weights=there)).name


def test_windows_are_the_papers_ceil_of_frames_by_window() -> None:
    assert OPTIONS.windows == 10  # ⌈300 / 32⌉
    assert replace(OPTIONS, window_frames=16).windows == 19
    assert replace(OPTIONS, fps=8.0, window_frames=8).windows == 10


def test_unknown_repeated_and_weightless_columns_are_refused() -> None:
    for names in (["mfcc"], ["logmel", "logmel"]):
        with pytest.raises(ValueError, match="expected --columns"):
            build_columns(names, lambda _: OPTIONS)
    with pytest.raises(ValueError, match="--encoder-weights"):
        build_columns(["r2plus1d_18"], lambda _: None)
    assert feature_names() == ["logmel", "r2plus1d_18", "r2plus1d_34", "r2plus1d_152"]
