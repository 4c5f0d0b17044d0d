"""Puts packets into a new container, moved by whole seconds, with every timestamp exact.

A whole number of seconds is a whole number of ticks of every time base of the form 1/n. An MP4 keeps a track's first
timestamp in an edit list that counts in the movie's time base, 1/1000 s by default: sound at 44.1 kHz would move by
up to 44 samples. Hence a movie time base that the tracks' time bases divide. Source: FFmpeg's libavformat/movenc.c,
mov_write_edts_tag.
"""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import av

from pipeline.failures import Cause, FetchFailure, plain_words

MAX_TIMESCALE = 2**31 - 1
MP4_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "aac", "mp3", "opus", "ac3", "eac3", "flac", "alac"})
MILLISECOND = Fraction(1, 1000)


class Track(NamedTuple):
    """A stream and those of its packets, at least one, in decoding order, that go into the new container."""

    stream: Any
    packets: Sequence[Any]

    @property
    def tick_s(self) -> Fraction:
        """The packets' time base."""
        tick_s: Fraction = self.packets[0].time_base
        return tick_s

    @property
    def is_audio(self) -> bool:
        """Sound, not picture."""
        return bool(self.stream.type == "audio")


class Remuxed(NamedTuple):
    """A container's bytes, its extension, and the seconds that its timestamps are earlier than the source's."""

    data: bytes
    extension: str
    shift_s: int


def remux(tracks: Sequence[Track], origin_s: Fraction = Fraction(0)) -> Remuxed:
    """Copies packets into an MP4, a QuickTime file for plain PCM, or Matroska for other codecs that MP4 does not know.

    `origin_s`, a number of ticks of the source, is its timestamp that counts as 0. The packets are changed. Equal
    packets make equal bytes. Raises FetchFailure (`undecodable`) where the container does not take them.
    """
    first_s = min(min(packet.pts for packet in track.packets) * track.tick_s for track in tracks) - origin_s
    # Times before 0 stay there: an edit list hides them in the source, and will here.
    shift_s = max(0, math.floor(first_s))
    codecs = {track.stream.codec_context.codec.canonical_name for track in tracks}
    unknown = codecs - MP4_CODECS
    # Matroska's milliseconds would be rounded to samples in the others, their samples to milliseconds in Matroska.
    exact_in_mp4 = any(track.tick_s != MILLISECOND for track in tracks)
    if exact_in_mp4 and all(codec.startswith("pcm_") for codec in unknown):
        extension = "mov" if unknown else "mp4"
        timescale = {"movie_timescale": str(_movie_timescale(tracks))}
        return Remuxed(_mux(tracks, origin_s + shift_s, extension, timescale), extension, shift_s)
    return Remuxed(_mux(tracks, origin_s + shift_s, "matroska", {}), "mkv", shift_s)


def _mux(tracks: Sequence[Track], shift_s: Fraction, container_format: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    options = {"fflags": "+bitexact", "avoid_negative_ts": "disabled", **options}
    try:
        with av.open(file, "w", format=container_format, options=options) as container:
            # opaque: a decoder without an encoder of the same name (dav1d) is a template too.
            streams = [container.add_stream_from_template(track.stream, opaque=True) for track in tracks]
            moved = [_moved(track, stream, shift_s) for track, stream in zip(tracks, streams, strict=True)]
            for packet in heapq.merge(*moved, key=lambda packet: packet.dts * packet.time_base):
                container.mux(packet)
    except (av.FFmpegError, ValueError) as error:
        words = f"cannot be copied into {container_format}: {error}"
        raise FetchFailure(Cause.UNDECODABLE, plain_words(words)) from error
    return file.getvalue()


def _moved(track: Track, stream: Any, shift_s: Fraction) -> Iterator[Any]:
    if any(packet.dts is None for packet in track.packets):
        _set_dts(track.packets)
    tick_s = track.tick_s
    for packet in track.packets:
        # In units of 1/n seconds (AVI counts in 1001/30000), so that the shift is a whole number of them.
        pts, dts = packet.pts * tick_s.numerator, packet.dts * tick_s.numerator
        packet.time_base = Fraction(1, tick_s.denominator)
        shift = round(shift_s * tick_s.denominator)
        packet.pts, packet.dts = pts - shift, dts - shift
        packet.duration *= tick_s.numerator
        packet.stream = stream
        yield packet


def _set_dts(packets: Sequence[Any]) -> None:
    """Decoding times where the container stores none: those of presentation in order, earlier where they must be."""
    ordered = sorted(packet.pts for packet in packets)
    place = {pts: index for index, pts in enumerate(ordered)}
    delay = max(0, max(index - place[packet.pts] for index, packet in enumerate(packets)))
    for index, packet in enumerate(packets):
        packet.dts = ordered[index - delay] if index >= delay else ordered[0] - (delay - index)


def _movie_timescale(tracks: Sequence[Track]) -> int:
    """Ticks a second in which each track's first timestamp is exact; the sound's only where there are none for both."""
    scales: list[int] = []
    for track in tracks:
        if track.is_audio:
            scales.insert(0, track.stream.codec_context.sample_rate or 1000)
            continue
        scale = track.tick_s.denominator
        while scale < 10_000:  # as movenc does
            scale *= 2
        scales.append(scale)
    common = math.lcm(*scales)
    return common if common <= MAX_TIMESCALE else scales[0]
