"""Masks: their region number by number, their texts, and librosa's filter edges for their hertz."""

from __future__ import annotations

import itertools
import re

import librosa
import numpy as np
import pytest

from attacks.masks import Mask

BANDS = {"0:20": "freq0-20", "20:40": "freq20-40", "40:64": "freq40-64", None: ""}
STRETCHES = {"0:200": "time0-200", "200:400": "time200-400", "399:400": "time399-400", None: ""}


@pytest.mark.parametrize("freq", BANDS)
@pytest.mark.parametrize("time", STRETCHES)
def test_region_and_name(freq: str | None, time: str | None) -> None:
    mask = Mask.parse(freq, time)
    bins = range(*(int(edge) for edge in (freq or "0:64").split(":")))
    frames = range(*(int(edge) for edge in (time or "0:400").split(":")))
    expected = [[frame in frames and mel in bins for mel in range(64)] for frame in range(400)]
    assert mask.array().dtype == np.bool_
    np.testing.assert_array_equal(mask.array(), expected)
    assert mask.name == ("_".join(filter(None, (BANDS[freq], STRETCHES[time]))) or "full")


def test_texts_of_a_whole_axis_are_the_full_mask() -> None:
    assert Mask() == Mask.parse(None, None) == Mask.parse("0:64", "0:400") == Mask((0, 64), (0, 400))
    assert Mask().name == "full" and Mask().array().all()
    assert len({Mask(), Mask.parse("0:64"), Mask.parse("0:20")}) == 2, "equal masks are one key"


def test_arrays_are_their_callers_own() -> None:
    mask = Mask()
    mask.array()[:] = False
    assert mask.array().all()


def test_contains_is_that_of_the_regions() -> None:
    masks = [Mask.parse(freq, time) for freq in (*BANDS, "0:19", "1:20", "0:40") for time in STRETCHES]
    for outer, inner in itertools.product(masks, masks):
        assert outer.contains(inner) == bool((outer.array() | ~inner.array()).all()), (outer, inner)


@pytest.mark.parametrize(
    "text", ["", ":", "20", "0:", ":20", "0-20", "0:20:1", " 0:20", "0:20\n", "-1:20", "+0:20", "0.0:20", "a:b", "²:20"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="freq band A:B with 0 <= A < B <= 64, got " + re.escape(repr(text))):
        Mask.parse(text, None)
    with pytest.raises(ValueError, match="time band A:B .* <= 400, got .*; write 0:200 for the lower"):
        Mask.parse(None, text)


@pytest.mark.parametrize("text", ["0:0", "20:20", "20:10", "0:65", "64:65", "0:999999999"])
def test_bands_that_are_empty_reversed_or_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"freq band .* got {text}; B itself is not part of the band"):
        Mask.parse(text, None)
    first, end = (int(edge) for edge in text.split(":"))
    with pytest.raises(ValueError, match="got"):
        Mask(freq=(first, end))
    with pytest.raises(ValueError, match="time band"):
        Mask(time=(first + 336, end + 336) if first < end else (first, end))
    with pytest.raises(ValueError, match="freq band"):
        Mask(freq=(-1, 20))


def test_hertz_are_the_outer_edges_of_the_bands_filters() -> None:
    # Filter i of 64 rises from edge i, has its peak at i + 1, and is zero again at i + 2.
    edges = librosa.mel_frequencies(n_mels=66, fmin=0, fmax=8000, htk=False)
    for text in ("0:20", "20:40", "40:64"):
        mask = Mask.parse(text, "0:200")
        assert mask.hertz == f"{edges[mask.freq[0]]:.0f}–{edges[mask.freq[1] + 1]:.0f} Hz"
    assert Mask().hertz is Mask.parse("0:21").hertz is Mask.parse("0:40", None).hertz is None


@pytest.mark.parametrize("mask", [Mask(), Mask((0, 20)), Mask(time=(200, 400)), Mask((20, 40), (0, 200))])
def test_names_lead_back(mask: Mask) -> None:
    assert Mask.of_name(mask.name) == mask


@pytest.mark.parametrize(
    "name", ["", "Full", "freq", "freq0-20_", "_time0-200", "freq0-64", "time0-200_freq0-20", "freq20-0", "freq0-20x"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Mask.of_name(name)
