from __future__ import annotations

import pickle
import random
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_factory import Audio, Video, cut_copy, damage, music, read_board, tone, write_media

from pipeline.media import DecodedClip, DecodeRules, FrameSpec, Limits, Undecodable, decode_clip, start_in_file

RATE = 16000
SPEC = FrameSpec()


def decode(
    source: bytes | str | Path,
    seconds: float = 10,
    start_ms: int | None = 0,
    segment_start_ms: int = 0,
    sample_rate: int | None = RATE,
    frames: FrameSpec | None = SPEC,
    **more: object,
) -> DecodedClip:
    return decode_clip(
        source,
        start_ms=start_ms,
        segment_start_ms=segment_start_ms,
        segment_end_ms=segment_start_ms + round(1000 * seconds),
        sample_rate=sample_rate,
        frames=frames,
        **more,
    )


def flags(clip: DecodedClip) -> str:
    names = ("has_audio", "has_video", "mute", "still", "short")
    return " ".join(name for name in names if getattr(clip, name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def full(folder: Path) -> Path:
    """10 s of both tracks, index first."""
    return write_media(folder / "full.mp4", Video(), Audio(rate=48000), faststart=True)


def test_a_whole_clip(full: Path) -> None:
    for source in (full, str(full), full.read_bytes()):
        clip = decode(source)
        assert flags(clip) == "has_audio has_video"
        assert clip.waveform.shape == (160_000,)
        assert clip.waveform.dtype == np.float32
        assert clip.frames.shape == (300, 112, 112, 3)
        assert clip.frames.dtype == np.uint8
        assert clip.audio_s == pytest.approx(10, abs=0.001)
        assert clip.video_s == pytest.approx(10, abs=0.001)
        assert [read_board(frame) for frame in clip.frames] == list(range(300))
        assert np.abs(clip.waveform - tone(10, RATE))[100:-100].max() < 0.05


@pytest.mark.parametrize(("sample_rate", "frames"), [(RATE, None), (None, SPEC), (None, None)])
def test_tracks_not_asked_for_are_only_told(full: Path, sample_rate: int | None, frames: FrameSpec | None) -> None:
    clip = decode(full, sample_rate=sample_rate, frames=frames)
    assert flags(clip) == "has_audio has_video"
    assert (clip.waveform is None) == (sample_rate is None)
    assert (clip.audio_s == 0) == (sample_rate is None)
    assert (clip.frames is None) == (frames is None)
    assert (clip.video_s == 0) == (frames is None)


@pytest.mark.parametrize(
    ("name", "video", "audio", "expected"),
    [
        ("mute.mp4", Video(), Audio(amplitude=0.0005), "has_audio has_video mute"),
        ("faint.mp4", Video(), Audio(amplitude=0.002), "has_audio has_video"),
        ("still.mp4", Video(numbers=[5] * 300), Audio(), "has_audio has_video still"),
        ("one.mp4", Video(times_s=[Fraction(0)], numbers=[3]), Audio(), "has_audio has_video short"),
        ("seen.mp4", Video(), None, "has_video"),
        ("heard.m4a", None, Audio(), "has_audio"),
        ("heard.wav", None, Audio(codec="pcm_s16le"), "has_audio"),
        ("heard.flac", None, Audio(codec="flac"), "has_audio"),
        ("mute.wav", None, Audio(codec="pcm_s16le", amplitude=0), "has_audio mute"),
        ("vp9.webm", Video(codec="libvpx-vp9"), Audio(codec="libopus", rate=48000), "has_audio has_video"),
        ("early.mp4", Video(seconds=9.3), Audio(seconds=9.3), "has_audio has_video short"),
        ("nearly.mp4", Video(seconds=9.8), Audio(seconds=9.8), "has_audio has_video"),
        ("blind.mp4", Video(seconds=6), Audio(), "has_audio has_video short"),
        ("5.1.mp4", None, Audio(rate=48000, layout="5.1"), "has_audio"),
        ("8k.mp4", None, Audio(rate=8000, layout="mono"), "has_audio"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_flags(tmp_path: Path, name: str, video: Video | None, audio: Audio | None, expected: str) -> None:
    assert flags(decode(write_media(tmp_path / name, video, audio))) == expected


@pytest.mark.parametrize("length_s", [10, 6])
@pytest.mark.parametrize("audio_s", [1, 2, 4, 7])
@pytest.mark.parametrize("video_s", [1, 4])
def test_decodable_does_not_depend_on_what_is_asked(tmp_path: Path, length_s: int, audio_s: int, video_s: int) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=video_s, fps=10), Audio(seconds=audio_s))
    good = max(audio_s, video_s) >= min(5, length_s / 2)
    for sample_rate, frames in ((RATE, SPEC), (RATE, None), (None, SPEC), (None, None)):
        if good:
            decode(path, length_s, sample_rate=sample_rate, frames=frames)
        else:
            with pytest.raises(Undecodable, match=r"can be decoded from 0 s to .* at least .* are needed"):
                decode(path, length_s, sample_rate=sample_rate, frames=frames)


def test_exactly_half_is_enough(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=5))
    clip = decode(path)
    assert flags(clip) == "has_video short"
    assert len(clip.frames) == 150


@pytest.mark.parametrize("part", [0.35, 0.65, 0.9])
def test_half_a_download(full: Path, part: float) -> None:
    data = full.read_bytes()
    data = data[: int(part * len(data))]
    if part < 0.5:
        with pytest.raises(Undecodable):
            decode(data)
        return
    clip, whole = decode(data), decode(full)
    assert flags(clip) == "has_audio has_video short"
    assert 5 < clip.audio_s < 9.75
    assert 5 < clip.video_s < 9.75
    assert np.array_equal(clip.frames[:150], whole.frames[:150])
    assert np.array_equal(clip.waveform[: 5 * RATE], whole.waveform[: 5 * RATE])


def test_a_destroyed_track_leaves_the_other(tmp_path: Path, full: Path) -> None:
    deaf = decode(damage(full, tmp_path / "deaf.mp4", "audio", 0, 10))
    assert flags(deaf) == "has_video short"
    assert deaf.waveform is None
    assert len(deaf.frames) == 300
    blind = decode(damage(full, tmp_path / "blind.mp4", "video", 0, 10))
    assert flags(blind) == "has_audio short"
    assert blind.frames is None
    assert len(blind.waveform) == 160_000


def test_a_segment_inside_a_long_file_and_its_cut_are_the_same(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "whole.mp4", Video(seconds=16, key_every=50), Audio(samples=music(16, 44100, 2)))
    cut = cut_copy(whole, tmp_path / "cut.mp4", 5, 15.3, shift_s=4)
    long = decode(whole, start_ms=5000, segment_start_ms=5000)
    short = decode(cut, start_ms=1000, segment_start_ms=5000)
    assert np.array_equal(long.waveform, short.waveform)
    assert np.array_equal(long.frames, short.frames)
    assert [read_board(frame) for frame in long.frames] == list(range(150, 450))
    assert flags(long) == flags(short) == "has_audio has_video"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "clip.wav", "clip.mp3"])
def test_where_the_segment_starts_is_found_when_not_told(tmp_path: Path, name: str) -> None:
    codec = {"clip.wav": "pcm_s16le", "clip.mp3": "mp3"}.get(name, "aac")
    video = Video(seconds=8) if name in ("clip.mp4", "clip.ts") else None
    wave = music(8, 44100)
    path = write_media(tmp_path / name, video, Audio(layout="mono", samples=wave, codec=codec))
    clip = decode(path, 4, start_ms=None, segment_start_ms=3000)
    same = decode(path, 8, start_ms=None, segment_start_ms=60_000)
    assert np.corrcoef(clip.waveform, same.waveform[3 * RATE : 7 * RATE])[0, 1] > 0.999
    if video is not None:
        # A transport stream begins with the sound's encoder delay, 23 ms before the first picture.
        late = 1 if name == "clip.ts" else 0
        assert [read_board(frame) for frame in clip.frames] == list(range(90 - late, 210 - late))
        assert [read_board(frame) for frame in same.frames][-1] == 239 - late


@pytest.mark.parametrize(
    ("duration_ms", "start_ms", "expected"),
    [
        (300_000, 30_000, 30_000),  # the whole video
        (10_000, 30_000, 0),  # the clip
        (11_900, 30_000, 0),  # the clip, cut at key frames
        (9_300, 30_000, 0),  # the clip of a video that ended
        (40_000, 30_000, 30_000),  # the whole video ends with the segment
        (39_800, 30_000, 30_000),
        (25_000, 30_000, 30_000),  # neither: nothing will decode, rather than something wrong
        (12_000, 2_000, 2_000),  # both: 12 s of video hold 2-12 s
        (10_100, 2_000, 0),
        (10_000, 0, 0),
        (200_000, 0, 0),
        (None, 30_000, 0),
    ],
)
def test_start_in_file(duration_ms: int | None, start_ms: int, expected: int) -> None:
    assert start_in_file(duration_ms, start_ms, start_ms + 10_000) == expected


def test_a_file_without_the_segment_says_so(full: Path) -> None:
    words = r"0\.00 s can be decoded from 30 s to 40 s of a file that is .*mp4.* 10\.0 s long; at least 5 s are needed"
    with pytest.raises(Undecodable, match=words):
        decode(full, start_ms=30_000)


def test_frames_go_where_the_caller_wants_them(full: Path) -> None:
    memory = np.full((310, 112, 112, 3), 77, np.uint8)
    clip = decode(full, out=memory)
    assert np.shares_memory(clip.frames, memory)
    assert np.array_equal(clip.frames, decode(full).frames)
    assert np.array_equal(memory[:300], clip.frames)
    assert (memory[300:] == 77).all()


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((299, 112, 112, 3), np.uint8),
        np.zeros((300, 64, 64, 3), np.uint8),
        np.zeros((300, 112, 112, 3), np.float32),
        np.zeros((3, 112, 112, 300), np.uint8).T,
    ],
    ids=["few", "small", "float", "transposed"],
)
def test_memory_of_the_wrong_form_is_refused(full: Path, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected out uint8 \[300 or more, 112, 112, 3\]"):
        decode(full, out=out)


def test_contradictions_are_refused(full: Path) -> None:
    with pytest.raises(ValueError, match="end after it starts"):
        decode(full, seconds=0)
    with pytest.raises(ValueError, match="sample rate"):
        decode(full, sample_rate=0)
    with pytest.raises(ValueError, match="no FrameSpec"):
        decode(full, frames=None, out=np.zeros((300, 112, 112, 3), np.uint8))
    with pytest.raises(FileNotFoundError):
        decode(full.with_name("missing.mp4"))


@pytest.mark.parametrize(
    "limits", [Limits(max_width=100), Limits(max_height=90), Limits(max_frames=100), Limits(max_samples=1000)]
)
def test_more_than_is_allowed_is_undecodable(full: Path, limits: Limits) -> None:
    with pytest.raises(Undecodable, match=r"at most|more than"):
        decode(full, limits=limits)


def test_rules_can_be_changed(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=3), Audio(amplitude=0.002, seconds=3))
    with pytest.raises(Undecodable):
        decode(path)
    clip = decode(path, rules=DecodeRules(enough_s=2, mute_below_dbfs=-50, short_by_s=8, still_below_levels=300))
    assert flags(clip) == "has_audio has_video mute still"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".wav"])
def test_random_damage_ends_in_a_clip_or_undecodable(tmp_path: Path, suffix: str) -> None:
    video = None if suffix == ".wav" else Video(seconds=2)
    codec = "pcm_s16le" if suffix == ".wav" else "aac"
    path = write_media(tmp_path / f"clip{suffix}", video, Audio(seconds=2, codec=codec), faststart=suffix == ".mp4")
    data = path.read_bytes()
    chance = random.Random(4)
    ends = set()
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 10, 200])):
            broken[chance.randrange(len(data))] = chance.randrange(256)
        try:
            clip = decode(bytes(broken[: chance.randrange(len(data) // 4, len(data))]), 2)
        except Undecodable as error:
            assert str(error)
            ends.add("undecodable")
        else:
            assert clip.waveform is None or np.isfinite(clip.waveform).all()
            ends.add("clip")
    assert ends == {"clip", "undecodable"}


def test_undecodable_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(Undecodable("why")))
    assert (type(error), str(error)) == (Undecodable, "why")


def test_torch_and_ray_stay_out_of_the_decoding_process() -> None:
    code = "import sys, pipeline.media; print(sorted({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_real_clips(shared_data: Path) -> None:
    clips = sorted((shared_data / "real_clips").glob("*.mp4"))
    assert len(clips) == 24
    for path in clips[:6]:
        clip = decode(path)
        assert clip.has_audio
        assert clip.has_video
        assert len(clip.frames) == 300
        assert len(clip.waveform) > 159_000
        assert not clip.mute
