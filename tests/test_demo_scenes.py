"""The demo's signals are what their names say, judged by spectra and picture statistics."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
from scipy.stats import kurtosis

from pipeline.demo_scenes import (
    CLASSES,
    Picture,
    backdrop,
    beeps,
    fire_crackle,
    flames,
    passing_train,
    police_lights,
    rain,
    room_tone,
    sailing_boat,
    sine_wave,
    siren,
    white_noise,
)

RATE = 16_000
SECONDS = np.arange(4 * RATE) / RATE
HEIGHT, WIDTH = 144, 256
CENTRE = (slice(9, 135), slice(65, 191))  # the square that the clip encoder sees
SEEDS = (0, 1, 2)


def power_by_hertz(wave: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return np.fft.rfftfreq(len(wave), 1 / RATE), spectrum / spectrum.sum()


def drawn(factory: Picture, seed: int, second: float) -> np.ndarray:
    """A picture over a grey frame, clipped as the encoder gets it."""
    frame = np.full((HEIGHT, WIDTH, 3), 110, np.float32)
    factory(np.random.default_rng(seed), HEIGHT, WIDTH)(frame, second)
    return np.clip(frame, 0, 255)


@pytest.mark.parametrize("seed", SEEDS)
def test_sine_wave_is_one_tone(seed: int) -> None:
    hertz, power = power_by_hertz(sine_wave(np.random.default_rng(seed), SECONDS, RATE))
    peak = hertz[power.argmax()]
    assert 300 <= peak <= 800
    assert power[np.abs(hertz - peak) < 2].sum() > 0.999


@pytest.mark.parametrize("seed", SEEDS)
def test_beeps_come_and_go_at_one_pitch(seed: int) -> None:
    wave = beeps(np.random.default_rng(seed), SECONDS, RATE)
    hertz, power = power_by_hertz(wave)
    peak = hertz[power.argmax()]
    assert 1500 <= peak <= 2300
    assert power[np.abs(hertz - peak) < 100].sum() > 0.75
    loud = librosa.feature.rms(y=wave, frame_length=256, hop_length=64)[0] > 0.1
    starts = np.count_nonzero(np.diff(loud.astype(int)) == 1)
    assert 0.25 < loud.mean() < 0.65
    assert 7 <= starts <= 20


@pytest.mark.parametrize("seed", SEEDS)
def test_white_noise_is_flat(seed: int) -> None:
    hertz, power = power_by_hertz(white_noise(np.random.default_rng(seed), SECONDS, RATE))
    bands = [power[(hertz >= low) & (hertz < low + 1000)].sum() for low in range(0, 8000, 1000)]
    np.testing.assert_allclose(bands, 1 / 8, rtol=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_siren_glides_over_an_octave(seed: int) -> None:
    wave = siren(np.random.default_rng(seed), SECONDS, RATE)
    pitch = np.abs(librosa.stft(wave, n_fft=2048, hop_length=512, center=False)).argmax(axis=0) * RATE / 2048
    assert 450 < pitch.min() < 700
    assert 1150 < pitch.max() < 1550
    assert np.abs(np.diff(pitch)).max() < 150  # it glides, it does not jump


@pytest.mark.parametrize("seed", SEEDS)
def test_rain_is_a_high_hiss(seed: int) -> None:
    hertz, power = power_by_hertz(rain(np.random.default_rng(seed), SECONDS, RATE))
    assert power[(hertz > 1500) & (hertz < 7500)].sum() > 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_fire_crackles(seed: int) -> None:
    """Sharp peaks over a roar: far more outliers than noise, whose excess kurtosis is 0."""
    assert kurtosis(fire_crackle(np.random.default_rng(seed), SECONDS, RATE)) > 10


@pytest.mark.parametrize("seed", SEEDS)
def test_room_tone_falls_with_frequency(seed: int) -> None:
    wave = room_tone(np.random.default_rng(seed), SECONDS, RATE)
    hertz, power = power_by_hertz(wave)
    assert power[hertz < 500].sum() > 5 * power[hertz > 2000].sum()
    assert np.sqrt(np.square(wave).mean()) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("name", [cls.name for cls in CLASSES if cls.sound])
def test_sounds_are_float32_and_depend_on_the_generator_only(name: str) -> None:
    sound = next(cls.sound for cls in CLASSES if cls.name == name)
    waves = [sound(np.random.default_rng(seed), SECONDS, RATE) for seed in (7, 7, 8)]
    assert waves[0].dtype == np.float32
    assert waves[0].shape == SECONDS.shape
    assert np.isfinite(waves[0]).all()
    np.testing.assert_array_equal(waves[0], waves[1])
    assert not np.array_equal(waves[0], waves[2])


@pytest.mark.parametrize("name", [cls.name for cls in CLASSES if cls.picture])
def test_pictures_fill_the_centre_and_move(name: str) -> None:
    factory = next(cls.picture for cls in CLASSES if cls.name == name)
    for seed in SEEDS:
        instants = [drawn(factory, seed, second) for second in (2.0, 2.0, 2.1, 2.25, 2.4, 2.6, 7.3)]
        assert instants[0].dtype == np.float32
        assert np.isfinite(instants[0]).all()
        np.testing.assert_array_equal(instants[0], instants[1])
        changed = np.abs(instants[0][CENTRE] - 110).max(axis=2) > 20
        assert changed.mean() > 0.1
        moved = [(np.abs(later[CENTRE] - instants[0][CENTRE]).max(axis=2) > 20).mean() for later in instants[2:]]
        assert max(moved) > 0.02


def test_pictures_have_their_colours() -> None:
    for seed in SEEDS:
        red, green, blue = drawn(flames, seed, 3.0)[HEIGHT - 20 :][:, CENTRE[1]].mean(axis=(0, 1))
        assert red > green > blue
        red, _, blue = drawn(sailing_boat, seed, 3.0)[HEIGHT - 20 :].mean(axis=(0, 1))
        assert blue > red + 50
        lamps = [drawn(police_lights, seed, second)[CENTRE] for second in np.arange(2, 3, 0.05)]
        excess = [float((lamp[..., 0] - lamp[..., 2]).mean()) for lamp in lamps]
        assert max(excess) > 20
        assert min(excess) < -20


def test_train_shifts_sideways_as_a_whole() -> None:
    rng = np.random.default_rng(4)
    paint = passing_train(rng, HEIGHT, WIDTH)
    frames = np.full((2, HEIGHT, WIDTH, 3), 110, np.float32)
    for frame, second in zip(frames, (2.0, 2.05), strict=True):
        paint(frame, second)
    shifts = range(-20, 21)
    inner = slice(30, WIDTH - 30)
    errors = [np.abs(np.roll(frames[0], shift, axis=1) - frames[1])[:, inner].mean() for shift in shifts]
    assert min(errors) == 0
    assert shifts[int(np.argmin(errors))] != 0


def test_backdrop_is_dull_and_pans_smoothly() -> None:
    for seed in SEEDS:
        paint = backdrop(np.random.default_rng(seed), HEIGHT, WIDTH)
        frames = np.empty((2, HEIGHT, WIDTH, 3), np.float32)
        paint(frames[0], 3.0)
        paint(frames[1], 3.0 + 1 / 30)
        assert frames.min() > -40
        assert frames.max() < 260
        assert np.abs(frames[1] - frames[0]).mean() < 6
