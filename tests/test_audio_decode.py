from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import librosa
import numpy as np
import pytest
import soundfile
from media_factory import Audio, Video, cut_copy, damage, music, remux, tone, write_media

from pipeline.audio_decode import Sound, SoundRules, decode_sound, open_sound_file, read_sound, resample
from pipeline.demux import Demuxer, Limits, Undecodable

RATE = 16000


def decode(source: Path | bytes, start_s: float | Fraction, end_s: float | Fraction, **limits: int) -> Sound | None:
    with Demuxer(source, Limits(**limits)) as demuxer:
        return decode_sound(demuxer, Fraction(start_s), Fraction(end_s), SoundRules(), Limits(**limits))


def waveform(source: Path | bytes, start_s: float | Fraction, end_s: float | Fraction) -> np.ndarray:
    sound = decode(source, start_s, end_s)
    assert sound is not None
    return resample(sound, RATE, SoundRules())


def straight(path: Path) -> np.ndarray:
    """All samples of a file from its beginning, by a plain PyAV loop: float32 [channels, n]."""
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize(
    ("rate", "layout"),
    [(8000, "mono"), (16000, "mono"), (22050, "stereo"), (44100, "stereo"), (48000, "stereo"), (48000, "5.1")],
)
@pytest.mark.parametrize("name", ["clip.wav", "clip.flac", "clip.mkv"])
def test_a_tone_keeps_frequency_level_and_phase(tmp_path: Path, name: str, rate: int, layout: str) -> None:
    codec = "flac" if name == "clip.flac" else "pcm_s16le"
    path = write_media(tmp_path / name, audio=Audio(seconds=3, rate=rate, layout=layout, codec=codec))
    found = waveform(path, 0, 3)
    assert found.dtype == np.float32
    assert found.shape == (3 * RATE,)
    inner = slice(100, -100)
    assert np.abs(found - tone(3, RATE))[inner].max() < 2e-4


@pytest.mark.parametrize(
    ("codec", "suffix", "late_s"),
    # Matroska's time stamps are whole milliseconds.
    [("aac", ".mp4", 0.5 / RATE), ("mp3", ".mp4", 0.5 / RATE), ("aac", ".mkv", 1e-3), ("libopus", ".webm", 1e-3)],
)
def test_a_tone_survives_lossy_codecs_in_place(tmp_path: Path, codec: str, suffix: str, late_s: float) -> None:
    path = write_media(tmp_path / f"clip{suffix}", audio=Audio(seconds=3, rate=48000, codec=codec))
    found = waveform(path, 1, 2)
    times = 1 + np.arange(RATE) / RATE
    basis = np.stack([np.sin(2 * np.pi * 440 * times), np.cos(2 * np.pi * 440 * times)], axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(basis, found, rcond=None)
    assert np.hypot(sine, cosine) == pytest.approx(0.5, rel=0.06)
    assert abs(np.arctan2(-cosine, sine) / (2 * np.pi * 440)) <= late_s


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_a_click_stays_at_its_sample(rate: int) -> None:
    samples = np.zeros((1, 2 * rate), np.float32)
    samples[0, rate] = 1.0
    found = resample(Sound(samples, rate, "mono", 2 * rate), RATE, SoundRules())
    assert np.argmax(np.abs(found)) == RATE
    assert np.allclose(found[RATE + 1 : RATE + 50], found[RATE - 1 : RATE - 50 : -1], atol=1e-3)


@pytest.mark.parametrize("layout", ["stereo", "2.1", "4.0", "5.1", "5.1(side)", "7.1", "6 channels"])
def test_down_mix_keeps_equal_channels_and_never_clips(layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    full = np.tile(tone(1, RATE, 440, 1.0), (channels, 1))
    found = resample(Sound(full, RATE, layout, RATE), RATE, SoundRules())
    assert np.abs(found).max() == pytest.approx(1, abs=1e-3)


def test_down_mix_of_two_channels_is_their_mean() -> None:
    samples = music(1, RATE, channels=2)
    found = resample(Sound(samples, RATE, "stereo", RATE), RATE, SoundRules())
    assert np.allclose(found, samples.mean(axis=0), atol=1e-6)


def test_centre_counts_more_than_sides_and_bass_not_at_all() -> None:
    gains = []
    for channel in range(6):
        samples = np.zeros((6, RATE), np.float32)
        samples[channel] = tone(1, RATE, 440, 1.0)
        gains.append(np.abs(resample(Sound(samples, RATE, "5.1", RATE), RATE, SoundRules())).max())
    left, right, centre, bass, *surround = gains
    assert bass == 0
    assert centre > left == right > surround[0] == surround[1] > 0


@pytest.mark.parametrize("start_s", [Fraction(1, 10), Fraction(3), Fraction(5), Fraction(7321, 1000)])
def test_any_start_gives_the_slice_of_the_whole_file(tmp_path: Path, start_s: Fraction) -> None:
    # Mono at 16 kHz is not resampled. Without noise substitution an AAC frame depends on the one before it only.
    audio = Audio(rate=RATE, layout="mono", samples=music(12, RATE), options={"aac_pns": "0"})
    path = write_media(tmp_path / "clip.mp4", Video(seconds=1), audio)
    whole = straight(path)[0]
    begin = round(start_s * RATE)
    assert np.array_equal(waveform(path, start_s, start_s + 4), whole[begin : begin + 4 * RATE])


def test_resampling_agrees_with_another_resampler(tmp_path: Path) -> None:
    audio = Audio(samples=music(12, 44100, channels=2), options={"aac_pns": "0", "b": "192000"})
    path = write_media(tmp_path / "clip.mp4", audio=audio)
    native = straight(path)[:, 5 * 44100 : 9 * 44100].mean(axis=0)
    expected = librosa.resample(native, orig_sr=44100, target_sr=RATE, res_type="soxr_vhq")
    found = waveform(path, 5, 9)
    assert found.shape == expected.shape
    assert np.abs(found - expected)[100:-100].max() < 2e-3


@pytest.mark.parametrize(
    ("codec", "rate", "suffix"),
    [("aac", 44100, ".mp4"), ("aac", 48000, ".mkv"), ("libopus", 48000, ".mkv"), ("mp3", 44100, ".mp4")],
)
@pytest.mark.parametrize("start_s", [Fraction(5), Fraction(6789, 1000)])
def test_a_cut_gives_the_samples_of_the_whole(
    tmp_path: Path, codec: str, rate: int, suffix: str, start_s: Fraction
) -> None:
    audio = Audio(rate=rate, codec=codec, samples=music(12, rate, channels=2))
    whole = write_media(tmp_path / f"whole{suffix}", Video(seconds=12, fps=10), audio)
    cut = cut_copy(whole, tmp_path / f"cut{suffix}", float(start_s), float(start_s) + 3.3, shift_s=3)
    assert np.array_equal(waveform(cut, start_s - 3, start_s), waveform(whole, start_s, start_s + 3))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_decoder_that_remembers_starts_at_the_same_packet(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # AAC's noise substitution draws from a generator that runs on from the decoder's first frame.
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 12 * 44100)).astype(np.float32)
    audio = Audio(layout="mono", samples=noise, options={"aac_coder": "twoloop", "b": "48000"})
    whole = write_media(tmp_path / f"whole{suffix}", Video(seconds=12, fps=10), audio)
    cut = cut_copy(whole, tmp_path / f"cut{suffix}", 5, 8.3, shift_s=3, lead_s=2)
    samples = decode(whole, 5, 8).samples
    assert np.abs(samples - straight(whole)[:, 5 * 44100 : 8 * 44100]).max() > 0.01
    assert np.array_equal(samples, decode(cut, 2, 5).samples)
    for seeks in ((Fraction(2),), ()):
        monkeypatch.setattr("pipeline.demux.SEEK_BACK_S", seeks)
        assert np.array_equal(samples, decode(whole, 5, 8).samples)


def test_a_gap_is_silence_and_what_follows_stays_in_place(tmp_path: Path) -> None:
    wave = music(4, RATE)
    whole = write_media(tmp_path / "whole.mka", audio=Audio(rate=RATE, layout="mono", codec="pcm_s16le", samples=wave))
    path = remux(whole, tmp_path / "gap.mka", lambda packet: not 1 <= packet.pts * packet.time_base < 1.5)
    sound = decode(path, 0, 4)
    assert sound.seconds == pytest.approx(3.5, abs=0.1)
    assert not sound.samples[0, int(1.1 * RATE) : int(1.4 * RATE)].any()
    kept = np.r_[0 : int(0.9 * RATE), int(1.6 * RATE) : 4 * RATE]
    assert np.allclose(sound.samples[0][kept], wave[0][kept], atol=1e-3)


def test_small_jitter_of_time_stamps_moves_nothing(tmp_path: Path) -> None:
    wave = music(3, RATE)
    whole = write_media(tmp_path / "whole.mka", audio=Audio(rate=RATE, layout="mono", codec="pcm_s16le", samples=wave))
    jitter = iter(np.random.default_rng(0).integers(0, 20, 1000))

    def shake(packet: av.Packet) -> bool:
        packet.pts = packet.dts = packet.pts + (int(next(jitter)) if packet.pts else 0)
        return True

    sound = decode(remux(whole, tmp_path / "shaken.mka", shake), 0, 3)
    assert np.allclose(sound.samples, wave, atol=1e-4)


def test_sound_that_begins_late_is_preceded_by_silence(tmp_path: Path) -> None:
    audio = Audio(seconds=2, rate=RATE, layout="mono", codec="pcm_s16le", start_s=Fraction(1))
    sound = decode(write_media(tmp_path / "clip.mkv", audio=audio), 0, 4)
    assert sound.samples.shape == (1, 3 * RATE)
    assert sound.seconds == pytest.approx(2, abs=0.01)
    assert not sound.samples[0, : RATE - 16].any()
    assert np.allclose(sound.samples[0, RATE:], tone(2, RATE), atol=0.1)


@pytest.mark.parametrize("until_s", [2.03, 3])
def test_destroyed_packets_leave_the_rest_in_place(tmp_path: Path, until_s: float) -> None:
    whole = write_media(tmp_path / "whole.mp4", audio=Audio(samples=music(6, 44100, channels=2)))
    holed = decode(damage(whole, tmp_path / "holed.mp4", "audio", 2, until_s), 0, 6)
    expected = decode(whole, 0, 6)
    lost_s = expected.seconds - holed.seconds
    assert lost_s == pytest.approx(until_s - 2, abs=0.02)
    for part in (slice(0, int(1.9 * 44100)), slice(int((until_s + 0.1) * 44100), 6 * 44100)):
        assert np.abs(holed.samples[:, part] - expected.samples[:, part]).max() < 0.05


def test_cut_off_sound_is_kept_up_to_its_end(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", audio=Audio(), faststart=True)
    data = path.read_bytes()
    sound, whole = decode(data[: int(0.7 * len(data))], 0, 10), straight(path)
    assert 6 < sound.seconds < 8
    assert np.array_equal(sound.samples, whole[:, : sound.samples.shape[1]])


def test_a_change_of_rate_on_the_way_keeps_the_pitch(tmp_path: Path) -> None:
    parts = [
        Audio(seconds=2, rate=44100, layout="stereo"),
        Audio(seconds=2, rate=22050, layout="mono", start_s=Fraction(2)),
    ]
    joined = b"".join(write_media(tmp_path / f"{i}.ts", audio=part).read_bytes() for i, part in enumerate(parts))
    with Demuxer(joined, Limits()) as demuxer:
        begins = demuxer.begins_s
    sound = decode(joined, begins, begins + 4)
    assert (sound.rate, sound.layout) == (44100, "stereo")
    assert sound.seconds > 3.8
    for part in (slice(20_000, 60_000), slice(110_000, 150_000)):
        spectrum = np.abs(np.fft.rfft(sound.samples[0, part] * np.hanning(40_000)))
        assert np.argmax(spectrum) * 44100 / 40_000 == pytest.approx(440, abs=1.2)


@pytest.mark.parametrize(
    ("name", "kind", "subtype"),
    [
        ("a.wav", "WAV", "PCM_16"),
        ("b.wav", "WAV", "FLOAT"),
        ("c.wav", "WAVEX", "PCM_24"),
        ("d.w64", "W64", "PCM_16"),
        ("e.flac", "FLAC", "PCM_24"),
        ("f.aiff", "AIFF", "PCM_16"),
        ("g.au", "AU", "PCM_16"),
    ],
)
def test_sound_files_are_read_alike_by_libsndfile_and_pyav(tmp_path: Path, name: str, kind: str, subtype: str) -> None:
    wave = music(5, 44100, channels=2)
    soundfile.write(tmp_path / name, wave.T, 44100, format=kind, subtype=subtype)
    for source in (tmp_path / name, (tmp_path / name).read_bytes()):
        with open_sound_file(source) as file:
            sound = read_sound(file, Fraction(2), Fraction(4), Limits())
        assert np.allclose(sound.samples, wave[:, 2 * 44100 : 4 * 44100], atol=1e-4)
        assert (sound.rate, sound.layout, sound.seconds) == (44100, "stereo", 2)
        assert np.array_equal(decode(source, 2, 4).samples, sound.samples)


@pytest.mark.parametrize("name", ["clip.mp3", "clip.ogg", "clip.m4a"])
def test_files_with_loss_are_left_to_pyav(tmp_path: Path, name: str) -> None:
    codec = {"clip.mp3": "mp3", "clip.ogg": "libopus", "clip.m4a": "aac"}[name]
    path = write_media(tmp_path / name, audio=Audio(seconds=2, rate=48000, codec=codec))
    with open_sound_file(path) as file:
        assert file is None
    assert decode(path, 0, 2).seconds > 1.9


def test_a_cut_off_wav_gives_what_it_has() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, music(4, RATE).T, RATE, format="WAV")
    with open_sound_file(buffer.getvalue()[: 44 + 2 * 3 * RATE]) as file:
        assert read_sound(file, Fraction(0), Fraction(4), Limits()).seconds == pytest.approx(3)
        assert read_sound(file, Fraction(3), Fraction(4), Limits()) is None


def test_a_broken_header_is_left_to_pyav() -> None:
    with open_sound_file(b"RIFF" + bytes(100)) as file:
        assert file is None


def test_eight_channels_are_read_without_the_ninth_plane(tmp_path: Path) -> None:
    wave = np.stack([tone(1, 48000, 200 * (i + 1)) for i in range(8)])
    path = write_media(tmp_path / "clip.mkv", audio=Audio(rate=48000, layout="7.1", codec="pcm_s16le", samples=wave))
    assert np.allclose(decode(path, 0, 1).samples, wave, atol=1e-4)
    lossy = write_media(tmp_path / "clip.mp4", audio=Audio(rate=48000, layout="7.1", samples=wave))
    assert np.array_equal(decode(lossy, 0, 1).samples.shape, (8, 48000))


def test_more_samples_than_allowed_are_undecodable(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.wav", audio=Audio(seconds=2, codec="pcm_s16le"))
    with pytest.raises(Undecodable, match=r"2 channels of 88200 samples; at most 100000"):
        decode(path, 0, 2, max_samples=100_000)
    with (
        open_sound_file(path) as file,
        pytest.raises(Undecodable, match=r"2 channels of 88200 samples; at most 100000"),
    ):
        read_sound(file, Fraction(0), Fraction(2), Limits(max_samples=100_000))


def test_no_sound_is_none(tmp_path: Path) -> None:
    silent = write_media(tmp_path / "silent.mp4", Video(seconds=1))
    assert decode(silent, 0, 1) is None
    early = write_media(tmp_path / "early.mp4", audio=Audio(seconds=1))
    assert decode(early, 5, 6) is None
