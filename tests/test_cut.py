"""Cuts against the whole file: equal timestamps, equal samples, equal pictures, from every container."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_factory import Audio, Video, music, read_board, remux, write_media

from pipeline.cut import Cut, cut_segment
from pipeline.failures import Cause, FetchFailure

SECONDS, FPS = 24, 10
MANY = 10**9
FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"
CONTAINERS = {
    "plain.mp4": {},
    "faststart.mp4": {"movflags": "faststart"},
    "fragments.mp4": {"movflags": FRAGMENTS},
    "sidx.mp4": {"movflags": FRAGMENTS + "+global_sidx"},
    "dash.mp4": {"movflags": "dash+delay_moov+frag_keyframe+global_sidx+skip_trailer"},
    "plain.mkv": {},
    "flash.flv": {},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s with B-frames, a key frame every 4 s, numbered pictures and music at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("whole")
    video = Video(seconds=SECONDS, fps=FPS, width=144, height=96, key_every=4 * FPS)
    return write_media(folder / "whole.mp4", video, Audio(seconds=SECONDS, samples=music(SECONDS, 44_100, 2)))


@pytest.fixture(scope="module")
def webm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as VP9 and Opus."""
    audio = Audio(seconds=SECONDS, rate=48_000, codec="libopus", samples=music(SECONDS, 48_000, 2))
    video = Video(seconds=SECONDS, fps=FPS, width=144, height=96, key_every=4 * FPS, codec="libvpx-vp9", b_frames=0)
    return write_media(tmp_path_factory.mktemp("webm") / "whole.webm", video, audio)


@pytest.fixture(scope="module")
def in_container(whole: Path, webm: Path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        path = whole.parent / name
        if name == "vp9.webm":
            return webm
        if name == "vp9.mp4":
            return path if path.exists() else remux(webm, path, lambda packet: True)
        if name == "live.webm":
            return path if path.exists() else remux(webm, path, lambda packet: True, live="1")
        return path if path.exists() else remux(whole, path, lambda packet: True, **CONTAINERS[name])

    return make


def cut(path: Path, start_ms: int, end_ms: int) -> Cut:
    with path.open("rb") as file:
        made = cut_segment([file], start_ms, end_ms, max_bytes=MANY)
    assert made.data is not None
    return made


def packet_times(source: Path | io.BytesIO, kind: str) -> list[Fraction]:
    with av.open(source) as container:
        return [
            packet.pts * packet.time_base for packet in container.demux(container.streams.best(kind)) if packet.size
        ]


def samples(source: Path | bytes, start_ms: int, rate: int, length_s: int) -> np.ndarray:
    """Decoded sound of a segment, float32 [channels, n]: a fresh decoder from the packet half a second before it on."""
    start = Fraction(start_ms, 1000)
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
        stream = container.streams.best("audio")
        packets = [packet for packet in container.demux(stream) if packet.size]
    first = next(
        i
        for i, packet in enumerate(packets)
        if (packet.pts + packet.duration) * packet.time_base > start - Fraction(1, 2)
    )
    decoder = av.CodecContext.create(stream.codec_context.codec.canonical_name, "r")
    decoder.extradata, decoder.sample_rate, decoder.layout = (
        stream.codec_context.extradata,
        stream.codec_context.sample_rate,
        stream.codec_context.layout,
    )
    frames = [frame for packet in [*packets[first:], None] for frame in decoder.decode(packet)]
    begin = round((frames[0].pts * packets[0].time_base - start) * rate)
    arrays = [
        frame.to_ndarray() if frame.format.is_planar else frame.to_ndarray().reshape(frame.samples, -1).T
        for frame in frames
    ]
    sound = np.concatenate(arrays, axis=-1)
    if begin > 0:
        sound = np.pad(sound, ((0, 0), (begin, 0)))
    return sound[:, max(0, -begin) :][:, : length_s * rate]


def pictures(source: Path | bytes, start_ms: int, length_s: int) -> list[tuple[Fraction, np.ndarray]]:
    """Time after the segment's start and rgb24 of each decoded frame inside it."""
    start = Fraction(start_ms, 1000)
    found = []
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
        for frame in container.decode(container.streams.best("video")):
            time = frame.pts * frame.time_base - start
            if 0 <= time < length_s:
                found.append((time, frame.to_ndarray(format="rgb24")))
    return found


@pytest.mark.parametrize(
    ("name", "start_ms"),
    [("plain.mp4", start_ms) for start_ms in (0, 1300, 12_000, 15_999)]
    + [(name, start_ms) for name in (*CONTAINERS, "vp9.webm", "vp9.mp4", "live.webm") for start_ms in (400, 7345)],
)
def test_a_cut_is_exact(in_container: Callable[[str], Path], name: str, start_ms: int) -> None:
    path, length_s = in_container(name), 4
    rate = 48_000 if "vp9" in name or "live" in name else 44_100
    made = cut(path, start_ms, start_ms + 1000 * length_s)
    shift_s = Fraction(start_ms - made.media_start_ms, 1000)
    assert shift_s.denominator == 1
    for kind in ("video", "audio"):
        source, copied = packet_times(path, kind), packet_times(io.BytesIO(made.data), kind)
        assert set(copied) <= {time - shift_s for time in source}
        assert len(copied) < len(source) / 2
        if kind == "audio":
            assert min(copied) + shift_s <= max(min(source), Fraction(start_ms, 1000) - 1) + Fraction(1, 20)
    assert np.array_equal(
        samples(made.data, made.media_start_ms, rate, length_s), samples(path, start_ms, rate, length_s)
    )
    expected, got = pictures(path, start_ms, length_s), pictures(made.data, made.media_start_ms, length_s)
    assert [time for time, _ in got] == [time for time, _ in expected]
    assert all(np.array_equal(mine, theirs) for (_, mine), (_, theirs) in zip(got, expected, strict=True))


def test_the_pictures_are_the_segments(whole: Path) -> None:
    made = cut(whole, 7345, 11_345)
    boards = [read_board(picture[6:90, 30:114]) for _, picture in pictures(made.data, made.media_start_ms, 4)]
    assert boards == [*range(74, 114)]


def test_the_same_cut_has_the_same_bytes(whole: Path) -> None:
    assert cut(whole, 7000, 11_000) == cut(whole, 7000, 11_000)


def test_a_cut_begins_at_the_last_key_frame_and_ends_soon_after_the_segment(whole: Path) -> None:
    made = cut(whole, 9000, 13_000)
    times = packet_times(io.BytesIO(made.data), "video")
    assert min(times) * 1000 == made.media_start_ms - 1000
    assert (made.media_start_ms + 4000) <= max(times) * 1000 <= made.media_start_ms + 4500
    sound = packet_times(io.BytesIO(made.data), "audio")
    assert made.media_start_ms - 1050 < min(sound) * 1000 < made.media_start_ms - 975


@pytest.mark.parametrize(
    ("name", "audio", "extension"),
    [
        ("a.wav", Audio(seconds=20, codec="pcm_s16le"), "mov"),
        ("a.flac", Audio(seconds=20, codec="flac"), "mp4"),
        ("a.m4a", Audio(seconds=20), "mp4"),
        ("a.mp3", Audio(seconds=20, codec="libmp3lame"), "mp4"),
        ("a.opus", Audio(seconds=20, codec="libopus", rate=48_000), "mp4"),
    ],
)
def test_sound_alone(tmp_path: Path, name: str, audio: Audio, extension: str) -> None:
    path = write_media(tmp_path / name, audio=audio)
    made = cut(path, 7300, 11_300)
    assert made.extension == extension
    with av.open(path) as container:
        origin_ms = Fraction(container.streams.audio[0].start_time or 0) * container.streams.audio[0].time_base * 1000
    if name != "a.mp3":
        assert origin_ms <= 0
    # An MP3's first timestamp is not 0; the segment counts from it.
    start_ms = 7300 + origin_ms if name == "a.mp3" else 7300
    expected = samples(path, start_ms, audio.rate, 4)
    assert np.array_equal(samples(made.data, made.media_start_ms, audio.rate, 4), expected)
    assert expected.shape[1] == 4 * audio.rate


def test_picture_alone_and_rotation(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", Video(seconds=12, turn=90, key_every=60))
    made = cut(path, 5000, 9000)
    with av.open(io.BytesIO(made.data)) as container, av.open(path) as source:
        assert len(container.streams) == 1
        rotations = [next(each.decode(video=0)).rotation for each in (container, source)]
    assert rotations[0] == rotations[1] != 0


def test_two_files_become_one(whole: Path, tmp_path: Path) -> None:
    """What YouTube's formats 134 and 140 are: a track each, in fragments with an index."""
    files = []
    for kind in ("video", "audio"):
        path = tmp_path / f"{kind}.mp4"
        with (
            av.open(whole) as source,
            av.open(str(path), "w", options={"movflags": FRAGMENTS + "+global_sidx"}) as output,
        ):
            stream = output.add_stream_from_template(source.streams.best(kind))
            for packet in source.demux(source.streams.best(kind)):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
        files.append(path.open("rb"))
    made = cut_segment(files, 7345, 11_345, max_bytes=MANY)
    assert made.extension == "mp4"
    assert made.data is not None
    video, audio = tmp_path / "video.mp4", tmp_path / "audio.mp4"
    assert np.array_equal(samples(made.data, made.media_start_ms, 44_100, 4), samples(audio, 7345, 44_100, 4))
    expected = pictures(video, 7345, 4)
    got = pictures(made.data, made.media_start_ms, 4)
    assert [time for time, _ in got] == [time for time, _ in expected]
    assert all(np.array_equal(mine, theirs) for (_, mine), (_, theirs) in zip(got, expected, strict=True))
    for file in files:
        file.close()


@pytest.mark.parametrize(("end_ms", "is_whole"), [(22_000, True), (24_000, True), (21_900, False)])
def test_a_file_that_is_the_clip_already_is_kept_as_it_is(whole: Path, end_ms: int, is_whole: bool) -> None:
    with whole.open("rb") as file:
        made = cut_segment([file], 0, end_ms, max_bytes=MANY)
    assert (made.data is None) == is_whole
    assert (made.extension, made.media_start_ms) == ("mp4", 0)


def test_where_the_segment_starts_may_depend_on_the_length(whole: Path) -> None:
    asked: list[int | None] = []

    def start(duration_ms: int | None) -> int:
        asked.append(duration_ms)
        return 2000

    with whole.open("rb") as file:
        made = cut_segment([file], 30_000, 34_000, max_bytes=MANY, start_in_file=start)
    assert made.data is not None
    assert 24_000 <= (asked[0] or 0) <= 24_100
    assert np.array_equal(samples(made.data, made.media_start_ms, 44_100, 4), samples(whole, 2000, 44_100, 4))


def test_half_a_file_is_cut_as_far_as_it_goes(in_container: Callable[[str], Path], tmp_path: Path) -> None:
    data = in_container("faststart.mp4").read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(data[: len(data) // 2])
    made = cut(half, 6000, 16_000)
    seconds = max(packet_times(io.BytesIO(made.data), "video")) - Fraction(made.media_start_ms, 1000)
    assert 4 < seconds < 8


def test_a_stream_that_turns_up_late_does_no_harm(in_container: Callable[[str], Path]) -> None:
    data = bytearray(in_container("flash.flv").read_bytes())
    last_sound = data.rindex(b"\xaf\x01")  # an FLV tag's AAC packet
    data[last_sound] = 0x2F  # is now MP3, in a stream of its own
    with av.open(io.BytesIO(bytes(data))) as container, pytest.raises(IndexError):
        for _ in container.demux():
            pass
    made = cut_segment([io.BytesIO(bytes(data))], 20_000, 26_000, max_bytes=MANY)
    assert made.data is not None
    assert len(pictures(made.data, made.media_start_ms, 6)) >= 40


def failure(data: bytes, start_ms: int = 1000, max_bytes: int = MANY) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        cut_segment([io.BytesIO(data)], start_ms, start_ms + 5000, max_bytes=max_bytes)
    return caught.value


def test_what_is_no_media_is_undecodable(whole: Path) -> None:
    data = whole.read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    concat = b"ffconcat version 1.0\nfile /etc/hostname\n"
    subtitles = b"1\n00:00:00,000 --> 00:00:20,000\nHello\n"
    picture = io.BytesIO()
    with av.open(picture, "w", format="image2pipe") as output:
        stream = output.add_stream("png", rate=1)
        stream.width = stream.height = 16
        stream.pix_fmt = "rgb24"
        output.mux(stream.encode(av.VideoFrame(16, 16, "rgb24")))
    for made_up in (
        b"a text named .mp4\n" * 100,
        playlist,
        concat,
        subtitles,
        picture.getvalue(),
        data[:1000],
        bytes(5000),
    ):
        assert failure(made_up).cause == Cause.UNDECODABLE


def test_a_segment_after_the_end_is_undecodable(whole: Path) -> None:
    caught = failure(whole.read_bytes(), 30_000)
    assert caught.cause == Cause.UNDECODABLE
    assert "at 30 s in media that last 24" in caught.words


def test_the_limit_of_bytes(whole: Path) -> None:
    caught = failure(whole.read_bytes(), 5000, 50_000)
    assert caught.cause == Cause.UNDECODABLE
    assert "0.05 MB" in caught.words


def test_a_track_that_ends_early_does_not_have_the_file_read_through(tmp_path: Path) -> None:
    path = write_media(tmp_path / "v.mp4", Video(seconds=60, fps=5, key_every=10), Audio(seconds=2), faststart=True)
    read = 0

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    data = path.read_bytes()
    made = cut_segment([Counting(data)], 5000, 10_000, max_bytes=MANY)
    assert made.data is not None
    assert read < 0.8 * len(data)
