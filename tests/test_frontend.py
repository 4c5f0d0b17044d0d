"""The log-mel against an independent float64 computation (librosa), on real clips and on edge cases."""

from __future__ import annotations

from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import torch

from models.feature_constants import LogMelConfig
from models.frontend import LogMel

SAMPLE_RATE_HZ = 16_000
CLIP_SAMPLES = 160_000


def librosa_log_mel(waveform: np.ndarray) -> np.ndarray:
    """float64 [400, 64] in dB, from the recipe's text alone."""
    clip = np.zeros(CLIP_SAMPLES)
    kept = waveform[:CLIP_SAMPLES].astype(np.float64)
    clip[: len(kept)] = kept
    spectrum = librosa.stft(
        clip, n_fft=4096, win_length=1024, hop_length=400, window="hann", center=True, pad_mode="constant",
        dtype=np.complex128,
    )  # fmt: skip
    bank = librosa.filters.mel(
        sr=SAMPLE_RATE_HZ, n_fft=4096, n_mels=64, fmin=0.0, fmax=8000.0, htk=False, norm="slaney", dtype=np.float64
    )
    decibels = 10.0 * np.log10(np.maximum(1e-10, bank @ np.abs(spectrum[:, :400])))
    return np.maximum(decibels, decibels.max() - 80.0).T


def assert_within_the_gate(waveform: np.ndarray) -> None:
    expected = librosa_log_mel(waveform)
    actual = LogMel()(torch.from_numpy(waveform[None]))[0].numpy()
    assert actual.shape == (400, 64) and actual.dtype == np.float32
    error = np.abs(actual - expected)
    loud = expected > expected.max() - 50.0
    assert error[loud].max() <= 1e-3
    assert error[~loud].max(initial=0.0) <= 0.3


def decode_mono_16k(path: Path) -> np.ndarray:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(str(path)) as container:
        decoded = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    decoded += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in decoded]).astype(np.float32)


def write_tones(path: Path, rate_hz: int, layout: str, channels: int) -> None:
    """Ten seconds of a different tone in each channel, as PCM in a wav file."""
    seconds = np.arange(10 * rate_hz) / rate_hz
    tones = np.stack([0.3 * np.sin(2 * np.pi * (220.0 * (channel + 1)) * seconds) for channel in range(channels)])
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate_hz, layout=layout)
        packed = np.round(tones.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(packed, format="s16", layout=layout)
        frame.rate = rate_hz
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.1, samples).astype(np.float32)


def test_real_clips_within_the_gate(shared_data: Path) -> None:
    clips = sorted((shared_data / "real_clips").glob("*.mp4"))
    assert len(clips) == 24
    for clip in clips:
        assert_within_the_gate(decode_mono_16k(clip))


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(CLIP_SAMPLES, np.float32),
        np.sign(np.sin(2 * np.pi * 440.0 * np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ)).astype(np.float32),
        np.ones(CLIP_SAMPLES, np.float32),
        np.concatenate([noise(80_000), np.zeros(80_000, np.float32)]),
        np.eye(1, CLIP_SAMPLES, 50_000, dtype=np.float32)[0],
        noise(round(9.3 * SAMPLE_RATE_HZ)),
        noise(14 * SAMPLE_RATE_HZ),
        noise(1),
    ],
    ids=["silence", "full-scale square", "full-scale constant", "half silent", "click", "9.3 s", "14 s", "one sample"],
)
def test_edge_cases_within_the_gate(waveform: np.ndarray) -> None:
    assert_within_the_gate(waveform)


@pytest.mark.parametrize("bin_index", [3.0, 256.5, 1024.0, 1864.0])
def test_pure_tones_within_the_gate(bin_index: float) -> None:
    """A tone is the hardest case for the bank's float32 weights; of all, bin 1864 was found to be the worst."""
    seconds = np.arange(CLIP_SAMPLES) / SAMPLE_RATE_HZ
    tone_hz = bin_index * SAMPLE_RATE_HZ / 4096
    assert_within_the_gate(np.sin(2 * np.pi * tone_hz * seconds + 1.0).astype(np.float32))


@pytest.mark.parametrize(
    ("rate_hz", "layout", "channels"), [(8000, "mono", 1), (48_000, "stereo", 2), (48_000, "5.1", 6)]
)
def test_resampled_sources_within_the_gate(tmp_path: Path, rate_hz: int, layout: str, channels: int) -> None:
    source = tmp_path / "tones.wav"
    write_tones(source, rate_hz, layout, channels)
    waveform = decode_mono_16k(source)
    assert abs(len(waveform) - CLIP_SAMPLES) < 64
    assert_within_the_gate(waveform)


def test_silence_is_the_floor_and_loudness_is_absolute() -> None:
    silence = LogMel()(torch.zeros(1, CLIP_SAMPLES))
    assert torch.equal(silence, torch.full((1, 400, 64), -100.0))
    quiet = torch.from_numpy(noise(CLIP_SAMPLES)[None])
    louder = LogMel()(10.0 * quiet) - LogMel()(quiet)
    # Magnitude, not power: ten times the amplitude is 10 dB here.
    torch.testing.assert_close(louder, torch.full_like(louder, 10.0), atol=1e-3, rtol=0)


def test_clips_of_a_batch_do_not_touch_each_other() -> None:
    loud, quiet = noise(CLIP_SAMPLES), 1e-4 * noise(CLIP_SAMPLES, seed=1)
    quiet[:80_000] = 0.0
    frontend = LogMel()
    together = frontend(torch.from_numpy(np.stack([loud, quiet])))
    alone = torch.cat([frontend(torch.from_numpy(clip[None])) for clip in (loud, quiet)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_dynamic_range_is_cut_after_the_cut_to_400_frames() -> None:
    """A bang that only the dropped 401st frame hears must not raise the floor of the other 400."""
    waveform = np.zeros(CLIP_SAMPLES, np.float32)
    waveform[:80_000] = 1e-4 * noise(80_000)
    # Frame 399 is centred on 159600 and reaches 160112; a window of 1024 around 160000 weighs the last sample most.
    waveform[-1] = 1.0
    assert_within_the_gate(waveform)
    config = LogMelConfig(frames=401)
    with_last = LogMel(config)(torch.from_numpy(waveform[None]))[0]
    assert with_last.min() > LogMel()(torch.from_numpy(waveform[None])).min()


def test_another_grid() -> None:
    shifted = LogMel(LogMelConfig(hop_samples=200, frames=800))(torch.from_numpy(noise(CLIP_SAMPLES)[None]))
    assert shifted.shape == (1, 800, 64)


@pytest.mark.parametrize(
    "waveform",
    [
        torch.zeros(160_000),
        torch.zeros(1, 2, 160_000),
        torch.zeros(1, 160_000, dtype=torch.float64),
        torch.zeros(1, 160_000, dtype=torch.int16),
    ],
)
def test_wrong_input_is_refused(waveform: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="waveform"):
        LogMel()(waveform)


@pytest.mark.parametrize("sample", [float("nan"), float("inf"), 3e38])
def test_damaged_samples_are_refused(sample: float) -> None:
    waveform = torch.zeros(1, CLIP_SAMPLES)
    waveform[0, 1000:1600] = sample
    with pytest.raises(ValueError, match="undecodable"):
        LogMel()(waveform)
