"""The picture of a log-mel: frequencies where librosa has them, and a PNG with the array's values in it."""

from __future__ import annotations

from pathlib import Path

import librosa
import matplotlib.image
import numpy as np
import pytest
from store_factory import LOGMEL

from stores.picture import htk_mel, mel_bin, save_logmel, slaney_mel

CONFIG = LOGMEL.constants["logmel"]
HZ = np.array([0, 1, 66.7, 250, 999.9, 1000, 1000.1, 2000, 4000, 8000, 22_050])


def test_mel_scales_are_librosas() -> None:
    np.testing.assert_allclose(slaney_mel(HZ), librosa.hz_to_mel(HZ), rtol=1e-12)
    np.testing.assert_allclose(htk_mel(HZ), librosa.hz_to_mel(HZ, htk=True), rtol=1e-12)


@pytest.mark.parametrize("htk", [False, True])
def test_bins_are_centred_where_librosas_mel_bank_has_its_centres(htk: bool) -> None:
    config = {**CONFIG, "mel_scale": "htk" if htk else "slaney", "f_min_hz": 50.0, "f_max_hz": 7600.0}
    centres = librosa.mel_frequencies(64 + 2, fmin=50, fmax=7600, htk=htk)[1:-1]
    np.testing.assert_allclose(mel_bin(centres, config), np.arange(64), atol=1e-9)


def test_a_tone_is_drawn_at_its_time_and_frequency(tmp_path: Path) -> None:
    logmel = np.full((400, 64), -80, np.float16)
    logmel[200:, 48:] = 0  # the upper quarter, from the fifth second on
    save_logmel(tmp_path / "a", logmel, CONFIG, "k_0   Speech, $x_1$ {\\frac", 400)
    pixels = matplotlib.image.imread(tmp_path / "a", format="png")
    assert pixels.shape == (540, 1200, 4)
    brightness = pixels[:, : int(1200 * 0.85), :3].sum(axis=2)
    middle = brightness[:, 100 : int(1200 * 0.85)]
    right_top, left_top, right_bottom = middle[100, -100], middle[100, 100], middle[400, -100]
    assert right_top > 2 > 0.2 > max(left_top, right_bottom)


@pytest.mark.parametrize("real_rows", [0, 100, 372])
def test_silent_short_and_broken_arrays_are_drawn_too(tmp_path: Path, real_rows: int) -> None:
    logmel = np.zeros((400, 64), np.float16)
    logmel[:, 3] = np.nan
    save_logmel(tmp_path / "a.png", logmel, CONFIG, "k_0   " + "Vehicle horn, car horn, honking, " * 8, real_rows)
    assert matplotlib.image.imread(tmp_path / "a.png").shape == (540, 1200, 4)


def test_an_array_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[frames, 64\].*\[10, 512\]"):
        save_logmel(tmp_path / "a.png", np.zeros((10, 512)), CONFIG, "", 10)
    with pytest.raises(ValueError, match="bark"):
        save_logmel(tmp_path / "a.png", np.zeros((400, 64)), {**CONFIG, "mel_scale": "bark"}, "", 400)
    assert not (tmp_path / "a.png").exists()
