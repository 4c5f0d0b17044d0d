from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import Audio, Video, cut_copy, damage, read_board, write_media
from PIL import Image

from pipeline.demux import Demuxer, Limits, Undecodable
from pipeline.video_decode import FrameSpec, Picture, decode_picture

HALF_MS = Fraction(1, 2000)


def decode(source: Path | bytes, start_s: float, end_s: float, spec: FrameSpec | None = None, **limits: int) -> Picture:
    spec = spec or FrameSpec()
    start, end = Fraction(start_s), Fraction(end_s)
    with Demuxer(source, Limits(**limits)) as demuxer:
        out = np.zeros((spec.count(end - start), spec.size, spec.size, 3), np.uint8)
        picture = decode_picture(demuxer, start, end, spec, Limits(**limits), out)
    assert picture is not None
    return picture


def numbers(picture: Picture) -> list[int]:
    return [read_board(frame) for frame in picture.frames]


def shown(times: list[Fraction], start_s: float, seconds: float, fps: float = 30.0) -> list[int]:
    """Brute force over exact times: the last frame not later than the grid time + 0.5 ms, or the first."""
    grid = [
        Fraction(start_s) + Fraction(k) / Fraction(fps).limit_denominator(1001) for k in range(round(seconds * fps))
    ]
    return [max([i for i, time in enumerate(times) if time <= t + HALF_MS], default=0) for t in grid]


@pytest.mark.parametrize("fps", [15, 25, Fraction(30000, 1001), 30, 60], ids=str)
@pytest.mark.parametrize("start_s", [0, 2.345])
def test_constant_rates_give_the_frame_shown(tmp_path: Path, fps: Fraction, start_s: float) -> None:
    video = Video(seconds=5, fps=fps, tick_s=Fraction(1, 30000))
    path = write_media(tmp_path / "clip.mp4", video)
    picture = decode(path, start_s, start_s + 2)
    assert numbers(picture) == shown(video.times(), start_s, 2)
    assert picture.seconds == pytest.approx(2, abs=1e-4)


def test_variable_rate_follows_the_time_stamps(tmp_path: Path) -> None:
    steps = np.random.default_rng(3).integers(300, 20_000, 120)
    times = [Fraction(int(tick), 90_000) for tick in np.cumsum(steps) - steps[0]]
    path = write_media(tmp_path / "clip.mp4", Video(times_s=times, tick_s=Fraction(1, 90_000)))
    end = int(times[-1])
    assert numbers(decode(path, 0, end)) == shown(times, 0, end)
    assert numbers(decode(path, 3.21, end)) == shown(times, 3.21, end - 3.21)


def test_half_a_millisecond_late_still_counts(tmp_path: Path) -> None:
    late = [Fraction(0), Fraction(1, 10) + Fraction(45, 90_000), Fraction(2, 10) + Fraction(46, 90_000)]
    times = [*late, Fraction(3, 10), Fraction(4, 10)]
    path = write_media(tmp_path / "clip.mp4", Video(times_s=times, tick_s=Fraction(1, 90_000)))
    assert numbers(decode(path, 0, 0.4, FrameSpec(fps=10))) == [0, 1, 1, 3]


@pytest.mark.parametrize("fps", [8, 30000 / 1001, 50])
def test_other_grids(tmp_path: Path, fps: float) -> None:
    video = Video(seconds=4)
    path = write_media(tmp_path / "clip.mp4", video)
    assert numbers(decode(path, 1, 3, FrameSpec(fps=fps))) == shown(video.times(), 1, 2, fps)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_pictures_come_upright(tmp_path: Path, turn: int) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=1, turn=turn))
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0))
        assert (stored.width, stored.height) == ((144, 96) if turn == 180 else (96, 144))
    assert numbers(decode(path, 0, 1)) == list(range(30))


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("clip.mkv", Video(seconds=6)),
        ("clip.webm", Video(seconds=6, codec="libvpx-vp9")),
        ("clip.mov", Video(seconds=6, codec="mpeg4", options={"b": "3000000"})),
        ("open.mp4", Video(seconds=6, key_every=45, b_frames=3, options={"x264-params": "open-gop=1"})),
        ("rare.mp4", Video(seconds=6, key_every=1000)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_seeks_in_any_container(tmp_path: Path, name: str, video: Video) -> None:
    codec = "pcm_s16le" if name.endswith(".mov") else "libopus"
    path = write_media(tmp_path / name, video, Audio(seconds=6, codec=codec, rate=48000))
    for start in (0.0, 1.0, 2.5, 4.04):
        assert numbers(decode(path, start, start + 1)) == shown(video.times(), start, 1), start


def test_transport_stream_counts_from_its_first_time_stamp(tmp_path: Path) -> None:
    video = Video(seconds=5)
    path = write_media(tmp_path / "clip.ts", video)
    with Demuxer(path, Limits()) as demuxer:
        begins = demuxer.begins_s
    assert begins > 0
    assert numbers(decode(path, begins + Fraction(5, 2), begins + 4)) == shown(video.times(), 2.5, 1.5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 s, a key frame every 2 s, numbers from 0."""
    return write_media(
        tmp_path_factory.mktemp("whole") / "whole.mp4", Video(seconds=12, key_every=60), Audio(seconds=12)
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("first_s", [4.0, 4.4, 6.9])
def test_stream_copied_cut_starts_at_the_right_frame(tmp_path: Path, whole: Path, suffix: str, first_s: float) -> None:
    cut = cut_copy(whole, tmp_path / f"cut{suffix}", first_s, first_s + 3.3, shift_s=3)
    expected = shown(Video(seconds=12).times(), first_s, 3)
    assert numbers(decode(cut, first_s - 3, first_s)) == expected
    assert numbers(decode(whole, first_s, first_s + 3)) == expected


@pytest.mark.parametrize("seeks", [(), (Fraction(-3),), (Fraction(20),)], ids=["none", "late", "early"])
def test_a_bad_seek_changes_nothing(whole: Path, seeks: tuple[Fraction], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.demux.SEEK_BACK_S", seeks)
    # 64 frames from the key frame at 6 s on; the 180 before it are not decoded.
    assert numbers(decode(whole, 6.9, 8, max_frames=80)) == shown(Video(seconds=12).times(), 6.9, 1.1)


def test_a_cut_without_its_key_frame_gives_no_made_up_pictures(tmp_path: Path) -> None:
    video = Video(seconds=6, key_every=60)
    whole = write_media(tmp_path / "whole.mkv", video)
    cut = tmp_path / "cut.mkv"
    with av.open(str(whole)) as given, av.open(str(cut), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in given.demux():
            if packet.size and packet.pts >= 1500:
                packet.stream = stream
                output.mux(packet)
    picture = decode(cut, 1.5, 4)
    assert numbers(picture) == [60] * 15 + list(range(60, 120))
    assert picture.seconds == pytest.approx(2, abs=0.01)


def test_cut_off_file_keeps_its_good_frames(tmp_path: Path) -> None:
    data = write_media(tmp_path / "clip.mp4", Video(seconds=10), Audio(seconds=10), faststart=True).read_bytes()
    data = data[: int(0.65 * len(data))]
    with av.open(io.BytesIO(data)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_corrupt]
    good = sorted(Fraction(packet.pts) * packet.time_base for packet in packets)
    picture = decode(data, 0, 10)
    count = len(picture.frames)
    assert 180 < count < 220
    assert count == round(30 * good[-1]) + 1
    assert numbers(picture) == [round(30 * good[i]) for i in shown(good, 0, count / 30)]
    assert picture.seconds == pytest.approx(count / 30, abs=0.1)


def test_half_a_last_picture_is_dropped(tmp_path: Path) -> None:
    # An MPEG-4 decoder makes up the half that is missing.
    video = Video(seconds=2, codec="mpeg4", options={"b": "3000000"})
    data = write_media(tmp_path / "clip.mp4", video, faststart=True).read_bytes()
    with av.open(io.BytesIO(data)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][40]
        data = data[: last.pos + last.size // 2]
    assert numbers(decode(data, 0, 2)) == list(range(40))


def test_an_early_end_is_not_filled(tmp_path: Path) -> None:
    picture = decode(write_media(tmp_path / "clip.mp4", Video(seconds=9.3)), 0, 10)
    assert numbers(picture) == list(range(279))
    assert picture.seconds == pytest.approx(9.3, abs=1e-3)


def test_a_late_beginning_shows_the_first_frame_but_does_not_count(tmp_path: Path) -> None:
    times = [1 + Fraction(i, 30) for i in range(60)]
    path = write_media(tmp_path / "clip.mkv", Video(times_s=times, tick_s=Fraction(1, 1000)))
    picture = decode(path, 0, 3)
    assert numbers(picture) == [0] * 30 + list(range(60))
    assert picture.seconds == pytest.approx(2, abs=0.01)


def test_nothing_inside_the_segment_is_no_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=2))
    with Demuxer(path, Limits()) as demuxer:
        assert decode_picture(demuxer, Fraction(5), Fraction(7), FrameSpec(), Limits(), None) is None


def test_destroyed_packets_are_skipped_and_not_counted(tmp_path: Path) -> None:
    whole = write_media(tmp_path / "whole.mp4", Video(seconds=6, key_every=30))
    picture = decode(damage(whole, tmp_path / "holed.mp4", "video", 2, 4), 0, 6)
    found = numbers(picture)
    assert found[:60] == list(range(60))
    assert found[120:] == list(range(120, 180))
    assert set(found[60:120]) <= set(range(55, 60))
    assert picture.seconds == pytest.approx(4, abs=0.15)


def test_a_change_of_resolution_on_the_way(tmp_path: Path) -> None:
    second = [2 + time for time in Video(seconds=2).times()]
    parts = [
        Video(seconds=2, width=192, height=128, b_frames=0),
        Video(times_s=second, numbers=range(60, 120), width=160, height=240, b_frames=0, tick_s=Fraction(1, 30)),
    ]
    joined = b"".join(write_media(tmp_path / f"{i}.ts", part).read_bytes() for i, part in enumerate(parts))
    with Demuxer(joined, Limits()) as demuxer:
        begins = demuxer.begins_s
    assert numbers(decode(joined, begins, begins + 4)) == list(range(120))


@pytest.mark.parametrize(("width", "height"), [(144, 96), (640, 360), (144, 256), (178, 98)])
@pytest.mark.parametrize("size", [112, 64])
def test_pixels_agree_with_pillow(tmp_path: Path, width: int, height: int, size: int) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=0.5, width=width, height=height))
    picture = decode(path, 0, 0.5, FrameSpec(size=size))
    with av.open(str(path)) as container:
        full = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    side = 2 * int(0.875 * min(width, height) / 2)
    left, top = 2 * ((width - side) // 4), 2 * ((height - side) // 4)
    for mine, frame in zip(picture.frames, full, strict=True):
        crop = Image.fromarray(frame[top : top + side, left : left + side])
        expected = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(mine.astype(int) - expected).mean() < 2


def test_decord_agrees_on_whole_files(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord", reason="the optional second opinion is not installed")
    path = write_media(tmp_path / "clip.mp4", Video(seconds=3, fps=25))
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    indices = [round(np.floor(k / 30 * 25 + 1e-6)) for k in range(90)]
    theirs = reader.get_batch(indices).asnumpy()
    picture = decode(path, 0, 3)
    for mine, other in zip(picture.frames[::7], theirs[::7], strict=True):
        crop = Image.fromarray(other[6:90, 30:114])
        assert np.abs(mine.astype(int) - np.asarray(crop.resize((112, 112), Image.Resampling.BILINEAR))).mean() < 3


def test_too_many_pictures_is_undecodable(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=2))
    with pytest.raises(Undecodable, match="more than 20 pictures"):
        decode(path, 0, 2, max_frames=20)


def test_timing_alone_stops_when_there_is_enough(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=6))
    with Demuxer(path, Limits()) as demuxer:
        picture = decode_picture(demuxer, Fraction(0), Fraction(6), FrameSpec(), Limits(), None, enough_s=2)
    assert picture.frames is None
    assert 2 <= picture.seconds < 2.2


@pytest.mark.parametrize("wrong", [{"fps": 0}, {"fps": float("nan")}, {"size": 0}, {"crop_of_short_side": 1.5}])
def test_impossible_specs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 < fps"):
        FrameSpec(**wrong)


def test_pictures_that_cannot_be_scaled_are_no_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mov", Video(seconds=1, width=1, height=64, codec="png", pixel_format="rgb24"))
    with Demuxer(path, Limits()) as demuxer:
        out = np.zeros((30, 112, 112, 3), np.uint8)
        assert decode_picture(demuxer, Fraction(0), Fraction(1), FrameSpec(), Limits(), out) is None


def test_a_segment_shorter_than_the_grid_has_no_picture(tmp_path: Path) -> None:
    path = write_media(tmp_path / "clip.mp4", Video(seconds=1))
    with Demuxer(path, Limits()) as demuxer:
        assert decode_picture(demuxer, Fraction(0), Fraction(1, 100), FrameSpec(), Limits(), None) is None
