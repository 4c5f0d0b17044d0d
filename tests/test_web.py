"""Segments out of remote files: what they cost, that they are exact, and the failure table of DESIGN.md section 5."""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_factory import Audio, Video, music, write_media

from pipeline.clip import FetchedClip, FetchOptions
from pipeline.failures import Cause, FetchFailure
from pipeline.loopback import LoopbackServer, Route, html_page
from pipeline.media import FrameSpec, decode_clip
from pipeline.segments import Segment
from pipeline.template import UrlTemplate
from pipeline.web import HttpFetcher

MB = 1_000_000
OPTIONS = FetchOptions(proxy="", read_timeout_s=0.6, deadline_s=30)
FRAMES = FrameSpec(fps=5.0, size=32)


def segment(ytid: str, start_ms: int = 0, end_ms: int = 10_000) -> Segment:
    return Segment(f"{ytid}_{start_ms}", ytid, start_ms, end_ms, (), ())


def decoded(clip: FetchedClip) -> Any:
    assert clip.data is not None
    wanted = clip.segment
    return decode_clip(
        clip.data,
        start_ms=clip.media_start_ms,
        segment_start_ms=wanted.start_ms,
        segment_end_ms=wanted.end_ms,
        sample_rate=16_000,
        frames=FRAMES,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`clip.mp4` of 10 s and `video.mp4` of 24 s."""
    folder = tmp_path_factory.mktemp("media")
    for name, seconds in (("clip", 10), ("video", 24)):
        video = Video(seconds=seconds, fps=10, width=96, height=64, key_every=40)
        sound = Audio(seconds=seconds, samples=music(seconds, 44_100, 2))
        write_media(folder / f"{name}.mp4", video, sound, faststart=True)
    return folder


@pytest.fixture(scope="module")
def long_video(folder: Path) -> Path:
    """20 minutes and 72 MB: the packets of 60 s over and over, pictures filled up to 480 kbit/s."""
    minute = write_media(
        folder / "minute.mp4",
        Video(seconds=60, fps=10, width=96, height=64, key_every=50, b_frames=2),
        Audio(seconds=60, samples=music(60, 44_100, 2)),
    )
    # An H.264 unit of type 12 takes room and shows nothing.
    filler = (3_800).to_bytes(4, "big") + b"\x0c" + b"\xff" * 3_798 + b"\x80"
    path = folder / "long.mp4"
    with av.open(minute) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as output:
        streams = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.size and packet.pts >= 0]
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        last = dict.fromkeys(streams, -100_000)
        for index in range(20):
            for packet in packets:
                is_audio = packet.stream.type == "audio"
                shift = int(60 * index / packet.time_base)
                shift = shift // 1024 * 1024 if is_audio else shift  # sound goes on in whole packets
                if packet.dts + shift <= last[packet.stream.index]:
                    continue
                last[packet.stream.index] = packet.dts + shift
                copy = av.Packet(bytes(packet) + (b"" if is_audio else filler))
                copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
                copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
                copy.stream = streams[packet.stream.index]
                output.mux(copy)
    return path


@pytest.fixture
def http(folder: Path) -> Iterator[Callable[..., HttpFetcher]]:
    """Makes a fetcher of `{ytid}.mp4` on a server of its own, which is its attribute `server`."""
    opened: list[Any] = []

    def make(routes: dict[str, Route] | None = None, options: FetchOptions = OPTIONS, path: str = "/{ytid}.mp4") -> Any:
        server = LoopbackServer(folder, routes)
        server.__enter__()
        fetcher = HttpFetcher(UrlTemplate(server.url + path), options)
        opened.extend((fetcher, server))
        fetcher.server = server  # type: ignore[attr-defined]
        return fetcher

    yield make
    for each in opened:
        each.close()


def test_a_clip_costs_one_request_and_its_bytes_are_kept(http: Callable[..., Any], folder: Path) -> None:
    fetcher = http()
    clip = fetcher.fetch(segment("clip"))
    data = (folder / "clip.mp4").read_bytes()
    assert clip == FetchedClip(
        segment("clip"), data, None, "mp4", 0, hashlib.sha256(data).hexdigest(), len(data), len(data), 1, "http"
    )
    assert len(fetcher.server.log()) == 1


@pytest.mark.parametrize(
    ("path", "ytid", "start_ms", "end_ms", "media_start_ms", "is_whole"),
    [
        ("/{ytid}.mp4", "clip", 30_000, 40_000, 0, True),  # too short to be the video: the segment's clip
        ("/{ytid}.mp4", "video", 12_000, 22_000, None, False),
        ("/{ytid}.mp4", "clip", 1500, 10_000, 1500, True),  # hardly longer than the segment, but the video
        ("/{ytid}.mp4?t={start_s}", "clip", 1500, 10_000, 0, True),  # the URL names the segment: its clip
        ("/{ytid}.mp4?t={start_s}", "video", 12_000, 22_000, None, False),
    ],
)
def test_where_the_segment_starts(
    http: Callable[..., Any],
    path: str,
    ytid: str,
    start_ms: int,
    end_ms: int,
    media_start_ms: int | None,
    is_whole: bool,
) -> None:
    clip = http(path=path).fetch(segment(ytid, start_ms, end_ms))
    assert (clip.size == clip.traffic) == is_whole
    if media_start_ms is not None:
        assert clip.media_start_ms == media_start_ms
    else:
        assert clip.media_start_ms % 1000 == start_ms % 1000
        assert decoded(clip).audio_s == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("start_ms", [0, 612_345, 1_180_000])
def test_ten_seconds_of_twenty_minutes(http: Callable[..., Any], long_video: Path, start_ms: int) -> None:
    assert 70 * MB < long_video.stat().st_size < 80 * MB
    fetcher = http()
    clip = fetcher.fetch(segment("long", start_ms, start_ms + 10_000))
    assert clip.traffic == fetcher.server.traffic() < 5 * MB
    assert clip.requests == len(fetcher.server.log()) <= 5
    assert clip.size < 2 * MB
    # Within one frame of the right time: the picture shown at the start is that of the whole file.
    whole = decode_clip(
        long_video,
        start_ms=start_ms,
        segment_start_ms=start_ms,
        segment_end_ms=start_ms + 10_000,
        sample_rate=16_000,
        frames=FRAMES,
    )
    cut = decoded(clip)
    assert np.array_equal(cut.waveform, whole.waveform)
    assert np.array_equal(cut.frames, whole.frames)
    with av.open(io.BytesIO(clip.data)) as container:
        first = next(packet for packet in container.demux(video=0) if packet.is_keyframe)
        assert 0 <= Fraction(clip.media_start_ms, 1000) - first.pts * first.time_base < 5 + Fraction(1, 10)


def test_the_end_of_a_long_file_first(http: Callable[..., Any], folder: Path, long_video: Path) -> None:
    """Without faststart the index is at the end; it costs a request more, not the file."""
    path = folder / "end.mp4"
    with av.open(long_video) as source, av.open(str(path), "w") as output:
        streams = {stream.index: output.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                output.mux(packet)
    clip = http().fetch(segment("end", 612_345, 622_345))
    assert clip.traffic < 5 * MB
    assert decoded(clip).audio_s == pytest.approx(10, abs=0.01)


def test_a_server_without_ranges(http: Callable[..., Any], folder: Path) -> None:
    ranged = http().fetch(segment("video", 3000, 8000))
    fetcher = http({"/video.mp4": Route(ranges=False)})
    clip = fetcher.fetch(segment("video", 3000, 8000))
    assert clip.data == ranged.data
    assert clip.requests == 1
    assert clip.traffic <= (folder / "video.mp4").stat().st_size


TEXT = b"This is a text, whatever it is called.\n" * 200


@pytest.mark.parametrize(
    ("name", "cause", "requests"),
    [
        ("404", Cause.GONE, 1),
        ("410", Cause.GONE, 1),
        ("403", Cause.UNREACHABLE, 2),
        ("429", Cause.THROTTLED, 1),
        ("500", Cause.UNREACHABLE, 1),
        ("503", Cause.UNREACHABLE, 1),
        ("time-out", Cause.UNREACHABLE, 1),
        ("cut transfer", Cause.UNREACHABLE, 1),
        ("cut transfer, no ranges", Cause.UNREACHABLE, 1),
        ("HTML", Cause.UNREACHABLE, 1),
        ("HTML called video", Cause.UNREACHABLE, 1),
        ("text called HTML", Cause.UNREACHABLE, 1),
        ("JSON", Cause.UNREACHABLE, 1),
        ("empty", Cause.UNREACHABLE, 1),
        ("text called video", Cause.UNDECODABLE, 1),
        ("half, index at the end", Cause.UNDECODABLE, 1),
        ("too large", Cause.UNDECODABLE, 1),
    ],
)
def test_the_failure_table(http: Callable[..., Any], folder: Path, name: str, cause: Cause, requests: int) -> None:
    data = (folder / "clip.mp4").read_bytes()
    late_index = data[:28] + b"\0\0\0\x10free" + bytes(8) + data[-50_000:]
    routes = {
        "404": Route(status=404),
        "410": Route(status=410),
        "403": Route(status=403),
        "429": Route(status=429, retry_after="11"),
        "500": Route(status=500),
        "503": Route(status=503, retry_after="11"),
        "time-out": Route(hang=True),
        "cut transfer": Route(truncate_at=len(data) // 2),
        "cut transfer, no ranges": Route(truncate_at=len(data) // 2, ranges=False),
        "HTML": html_page(),
        "HTML called video": html_page("video/mp4"),
        "text called HTML": Route(data=TEXT, content_type="text/html"),
        "JSON": Route(data=b'{"error": 1}', content_type="application/json"),
        "empty": Route(data=b""),
        "text called video": Route(data=TEXT, content_type="video/mp4"),
        "half, index at the end": Route(data=late_index),
        "too large": Route(ranges=False),
    }
    options = FetchOptions(proxy="", max_bytes=100_000) if name == "too large" else OPTIONS
    fetcher = http({"/clip.mp4": routes[name]}, options)
    began = time.monotonic()
    with pytest.raises(FetchFailure) as caught:
        fetcher.fetch(segment("clip"))
    assert time.monotonic() - began < 5
    assert caught.value.cause == cause
    assert caught.value.retry_after_s == (11 if name in ("429", "503") else None)
    assert len(fetcher.server.log()) == requests


def test_the_right_bytes_with_the_wrong_type_are_media(http: Callable[..., Any]) -> None:
    clip = http({"/clip.mp4": Route(content_type="text/html")}).fetch(segment("clip"))
    assert decoded(clip).has_video


def test_half_a_file_is_kept_as_far_as_it_goes(http: Callable[..., Any], folder: Path) -> None:
    data = (folder / "clip.mp4").read_bytes()
    clip = http({"/clip.mp4": Route(data=data[: len(data) * 7 // 10])}).fetch(segment("clip"))
    result = decoded(clip)
    assert result.short
    assert 5 < result.audio_s < 9


def test_a_refusal_is_tried_once_more(http: Callable[..., Any]) -> None:
    fetcher = http({"/clip.mp4": Route(status=403, times=1)})
    clip = fetcher.fetch(segment("clip"))
    assert clip.requests == 2
    assert [entry.status for entry in fetcher.server.log()] == [403, 206]


def test_a_cut_in_the_middle_of_a_long_file_is_not_taken_for_its_end(
    http: Callable[..., Any], long_video: Path
) -> None:
    """FFmpeg alone would return what came until then, or the packets of a file that ends there."""
    fetcher = http()
    fetcher.fetch(segment("long", 612_345, 622_345))
    starts = [int((entry.range or "").removeprefix("bytes=").partition("-")[0]) for entry in fetcher.server.log()]
    fetcher.server.set_route("/long.mp4", Route(truncate_at=max(starts) + 1000))
    with pytest.raises(FetchFailure) as caught:
        fetcher.fetch(segment("long", 612_345, 622_345))
    assert caught.value.cause == Cause.UNREACHABLE


def test_a_dripping_server_ends_with_the_deadline(http: Callable[..., Any]) -> None:
    options = FetchOptions(proxy="", deadline_s=0.7, read_timeout_s=5)
    fetcher = http({"/clip.mp4": Route(bytes_per_s=2000)}, options)
    began = time.monotonic()
    with pytest.raises(FetchFailure, match=r"unreachable: not fetched within 0\.7 s"):
        fetcher.fetch(segment("clip"))
    assert time.monotonic() - began < 3


def test_several_threads_fetch_at_once(http: Callable[..., Any]) -> None:
    fetcher = http()
    clips: list[FetchedClip] = []

    def work(index: int) -> None:
        clips.append(fetcher.fetch(segment("video", 1000 * index, 1000 * index + 5000)))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(clip.segment.start_ms for clip in clips) == [1000 * index for index in range(8)]
    assert all(clip.requests == 1 for clip in clips)
    assert len({clip.sha256 for clip in clips}) == 8


def test_media_that_are_too_large_to_be_held_are_refused_before_they_are_read(
    http: Callable[..., Any], folder: Path
) -> None:
    size = (folder / "clip.mp4").stat().st_size
    fetcher = http(options=replace(OPTIONS, max_clip_bytes=size - 1))
    with pytest.raises(FetchFailure, match="too large") as raised:
        fetcher.fetch(segment("clip"))
    assert raised.value.cause == Cause.UNDECODABLE
    tiny = http(options=replace(OPTIONS, max_clip_bytes=1000))
    with pytest.raises(FetchFailure, match="too large"):
        tiny.fetch(segment("video", 12_000, 22_000))
    unknown = http({"/clip.mp4": Route(ranges=False, sends_length=False)}, replace(OPTIONS, max_clip_bytes=size - 1))
    with pytest.raises(FetchFailure, match="too large"):
        unknown.fetch(segment("clip"))
    assert http(options=replace(OPTIONS, max_clip_bytes=size)).fetch(segment("clip")).size == size


def test_a_limit_counts_bytes_and_not_reads(http: Callable[..., Any], folder: Path) -> None:
    """Reads give what a block holds: a quarter of a megabyte."""
    data = (folder / "clip.mp4").read_bytes()
    large = data + struct.pack(">I", 3_000_008) + b"free" + bytes(3_000_000)
    fetcher = http({"/clip.mp4": Route(data=large)}, replace(OPTIONS, max_clip_bytes=len(large)))
    assert fetcher.fetch(segment("clip")).size == len(large)


def test_what_failed_says_what_it_cost(http: Callable[..., Any], folder: Path) -> None:
    fetcher = http({"/clip.mp4": Route(data=b"x" * 5000)})
    with pytest.raises(FetchFailure) as raised:
        fetcher.fetch(segment("clip"))
    assert (raised.value.traffic, raised.value.requests) == (5000, 1)
    refused = http({"/clip.mp4": Route(status=403)})
    with pytest.raises(FetchFailure) as raised:
        refused.fetch(segment("clip"))
    assert raised.value.requests == len(refused.server.log()) == 2
