"""Packets in a new container: where their times would be rounded, and which container it is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from media_factory import Audio, Video, write_media

from pipeline.failures import Cause, FetchFailure
from pipeline.remux import Track, remux

SMALL = {"width": 96, "height": 64, "fps": 10}


@contextmanager
def tracks(path: Path, after_s: float = 0) -> Iterator[list[Track]]:
    """All streams of a file with the packets from a time on."""
    with av.open(path) as container:
        packets: dict[int, list[Any]] = {stream.index: [] for stream in container.streams}
        for packet in container.demux():
            if packet.size and packet.pts * packet.time_base >= after_s:
                packets[packet.stream.index].append(packet)
        yield [Track(stream, packets[stream.index]) for stream in container.streams]


def times(source: Path | bytes, kind: str) -> list[tuple[Fraction, Fraction | None]]:
    """Times of presentation and decoding of each packet."""
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else source) as container:
        stream = container.streams.best(kind)
        return [
            (each.pts * each.time_base, None if each.dts is None else each.dts * each.time_base)
            for each in container.demux(stream)
            if each.size
        ]


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050])
@pytest.mark.parametrize("fps", [Fraction(30_000, 1001), Fraction(25), Fraction(10)])
def test_mp4_times_are_exact_in_both_tracks(tmp_path: Path, rate: int, fps: Fraction) -> None:
    video = Video(seconds=4, width=96, height=64, fps=fps, key_every=5)
    path = write_media(tmp_path / "a.mp4", video, Audio(seconds=4, rate=rate))
    with tracks(path, 1.02) as given:
        # Sound from a packet of its own time on, pictures from a key frame on.
        given[0] = Track(given[0].stream, [*_from_key_frame(given[0].packets)])
        made = remux(given)
    assert (made.extension, made.shift_s) == ("mp4", 1)
    for kind in ("video", "audio"):
        copied = times(made.data, kind)
        assert set(copied) <= {(pts - 1, dts - 1) for pts, dts in times(path, kind) if dts is not None}
        assert len(copied) > 5


def _from_key_frame(packets: Any) -> Iterator[Any]:
    begun = False
    for packet in packets:
        begun = begun or packet.is_keyframe
        if begun:
            yield packet


def test_times_before_zero_stay_hidden(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.m4a", audio=Audio(seconds=3))
    with tracks(path, -1) as given:
        assert given[0].packets[0].pts < 0
        made = remux(given)
    assert made.shift_s == 0
    assert times(made.data, "audio") == times(path, "audio")
    with av.open(io.BytesIO(made.data)) as container:
        assert next(container.demux()).is_discard


def test_missing_decoding_times_are_made_up_in_order(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mkv", Video(seconds=3, b_frames=3, **SMALL))
    with tracks(path) as given:
        assert given[0].packets[0].dts is None
        made = remux(given)
        dts = [packet.dts for packet in given[0].packets]
        assert dts == sorted(set(dts))
        assert all(packet.dts <= packet.pts for packet in given[0].packets)
    assert made.extension == "mkv"
    assert [pts for pts, _ in times(made.data, "video")] == [pts for pts, _ in times(path, "video")]


def test_a_time_base_that_is_no_unit_fraction(tmp_path: Path) -> None:
    video = Video(seconds=4, codec="mpeg4", b_frames=0, width=96, height=64, fps=Fraction(30_000, 1001), key_every=5)
    path = write_media(tmp_path / "a.avi", video, Audio(seconds=4, codec="libmp3lame"))
    with tracks(path, 2.1) as given:
        given[0] = Track(given[0].stream, [*_from_key_frame(given[0].packets)])
        assert given[0].packets[0].time_base.numerator == 1001
        made = remux(given)
    assert made.shift_s == 2
    assert {pts for pts, _ in times(made.data, "video")} <= {pts - 2 for pts, _ in times(path, "video")}


def test_an_origin_is_taken_off_exactly(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.ts", Video(seconds=4, key_every=5, **SMALL), Audio(seconds=4))
    with tracks(path, 2) as given:
        given[0] = Track(given[0].stream, [*_from_key_frame(given[0].packets)])
        origin_s = Fraction(126_123, 90_000)
        made = remux(given, origin_s)
    shift_s = origin_s + made.shift_s
    assert {pts for pts, _ in times(made.data, "video")} <= {pts - shift_s for pts, _ in times(path, "video")}


@pytest.mark.parametrize(
    ("name", "video", "audio", "extension"),
    [
        ("a.webm", {"codec": "libvpx-vp9", "b_frames": 0}, {"codec": "libopus", "rate": 48_000}, "mkv"),
        ("a.mp4", {}, {"codec": "libopus", "rate": 48_000}, "mp4"),
        ("a.mov", {}, {"codec": "pcm_s16le"}, "mov"),
        ("a.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p"}, {}, "mkv"),
        ("a.ts", {"codec": "mpeg2video", "fps": 25, "b_frames": 0}, {"codec": "mp2"}, "mkv"),
    ],
)
def test_the_container_suits_the_codecs(
    tmp_path: Path, name: str, video: dict[str, Any], audio: dict[str, Any], extension: str
) -> None:
    path = write_media(tmp_path / name, Video(seconds=2, **(SMALL | video)), Audio(seconds=2, **audio))
    with tracks(path, -1) as given:
        made = remux(given)
    assert made.extension == extension
    with av.open(io.BytesIO(made.data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == round(2 * (SMALL | video)["fps"])


def test_equal_packets_make_equal_bytes(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Video(seconds=2, **SMALL), Audio(seconds=2))
    made = []
    for _ in range(2):
        with tracks(path, -1) as given:
            made.append(remux(given))
    assert made[0] == made[1]


def test_what_no_container_takes_is_undecodable(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Video(seconds=2, **SMALL))
    with tracks(path) as given:
        for packet in given[0].packets:
            packet.dts = 5
        with pytest.raises(FetchFailure) as caught:
            remux(given)
    assert caught.value.cause == Cause.UNDECODABLE
    assert "cannot be copied into mp4" in caught.value.words
