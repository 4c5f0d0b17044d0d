"""From a clip's picture track to small RGB frames at fixed times: decode by time stamps, crop, then scale."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, takewhile

import av
import numpy as np

from pipeline.demux import Attempt, Demuxer, Limits, Undecodable, decode

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameSpec:
    """Which frames are taken of a clip and how; it belongs to the spec of a column of pictures.

    Frame k of the grid is the one shown at start + k / `fps`: the last whose time is not later than that by more than
    `tolerance_s`, or the first of all before it. The centre square of `crop_of_short_side` of the picture's short side
    (made even, at even offsets, for the chroma planes) is scaled bilinearly to `size` × `size` pixels.
    """

    fps: float = 30.0
    size: int = 112
    crop_of_short_side: float = 112 / 128
    tolerance_s: float = 0.0005

    def __post_init__(self) -> None:
        if not (0 < self.fps <= 1000 and 0 < self.size <= 4096 and 0 < self.crop_of_short_side <= 1):
            raise ValueError(f"expected 0 < fps <= 1000, 0 < size <= 4096 and 0 < crop_of_short_side <= 1, got {self}")

    def count(self, seconds: float | Fraction) -> int:
        """Frames on the grid of a segment of that length."""
        return round(self.fps * seconds)


@dataclass(frozen=True)
class Picture:
    """A segment's frames.

    `frames` uint8 [M, size, size, 3] RGB, M up to the last that is shown (None: only timed); `seconds` of the segment
    during which a decoded frame is shown.
    """

    frames: np.ndarray | None
    seconds: float


class _Scaler:
    """Crop, then scale, then RGB: the scaler reads only what is kept. Built again where the picture's form changes."""

    def __init__(self, spec: FrameSpec) -> None:
        self._spec = spec
        self._graph: av.filter.Graph | None = None
        self._form: tuple[object, ...] = ()

    def write(self, frame: av.VideoFrame, out: np.ndarray) -> None:
        """Writes the frame, upright, into uint8 [size, size, 3]. Raises `Undecodable` where FFmpeg cannot scale it."""
        form = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range)
        try:
            if self._graph is None or form != self._form:
                self._graph, self._form = self._build(frame), form
            self._graph.vpush(frame)
            small = self._graph.vpull()
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise Undecodable(f"pictures of form {form} cannot be scaled: {error.strerror}") from error
        plane, size = small.planes[0], self._spec.size
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(size, plane.line_size)
        pixels = rows[:, : 3 * size].reshape(size, size, 3)
        out[:] = np.rot90(pixels, round(frame.rotation / 90)) if frame.rotation else pixels

    def _build(self, frame: av.VideoFrame) -> av.filter.Graph:
        short = min(frame.width, frame.height)
        side = max(2, 2 * int(self._spec.crop_of_short_side * short / 2))
        left, top = (2 * int((length - side) / 4) for length in (frame.width, frame.height))
        size = self._spec.size
        graph = av.filter.Graph()
        graph.threads = 1
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
            graph.add("crop", f"w={side}:h={side}:x={left}:y={top}"),
            graph.add("scale", f"w={size}:h={size}:flags=bilinear"),
            graph.add("format", "pix_fmts=rgb24"),
            graph.add("buffersink"),
        ).configure()
        return graph


@dataclass(frozen=True)
class _Span:
    """A decoded frame and when it is shown, in ticks of the stream: [begin, until), of which [begin, good) for sure."""

    frame: av.VideoFrame
    begin: int
    until: int
    good: int


def decode_picture(
    demuxer: Demuxer,
    start_s: Fraction,
    end_s: Fraction,
    spec: FrameSpec,
    limits: Limits,
    out: np.ndarray | None,
    enough_s: float | None = None,
) -> Picture | None:
    """The frames between two times of the media's own timeline; None where there are none.

    `out` uint8 [spec.count(end − start) or more, size, size, 3] is written in place, and the frames are a view of it;
    with None they are only timed. Stops early once `enough_s` seconds are decoded. Raises `Undecodable` where the
    stream holds more than `limits` allows.
    """
    scaler, count = _Scaler(spec), spec.count(end_s - start_s)
    if count == 0:
        return None
    for attempt in demuxer.attempts("video", start_s):
        begin, end = round(start_s / attempt.tick_s), round(end_s / attempt.tick_s)
        latest = _grid(spec, start_s, count, attempt.tick_s)
        spans = _spans(attempt, latest[0], end, limits)
        first = next(spans, None)
        if not attempt.from_beginning and (first is None or first.begin > latest[0]):
            continue
        written, ticks = 0, 0
        for span in chain([] if first is None else [first], spans):
            run = bisect_left(latest, span.until)
            if out is not None and run > written:
                try:
                    scaler.write(span.frame, out[written])
                except Undecodable as error:
                    # No more picture, but the sound may do: an exception would be the whole clip's.
                    logger.debug("%s", error)
                    break
                out[written + 1 : run] = out[written]
            written = max(written, run)
            ticks += max(0, min(span.good, end) - max(span.begin, begin))
            if enough_s is not None and ticks * attempt.tick_s >= enough_s:
                break
        return Picture(None if out is None else out[:written], float(ticks * attempt.tick_s)) if written else None
    return None


def _grid(spec: FrameSpec, start_s: Fraction, count: int, tick_s: Fraction) -> list[int]:
    # The latest time stamp that is shown at each time of the grid, in whole numbers throughout: exact, and fast.
    first = (start_s + Fraction(spec.tolerance_s).limit_denominator(1_000_000)) / tick_s
    step = 1 / (Fraction(spec.fps).limit_denominator(1001) * tick_s)
    offset, stride, scale = first.numerator * step.denominator, step.numerator * first.denominator, first.denominator
    return [(offset + k * stride) // (scale * step.denominator) for k in range(count)]


def _spans(attempt: Attempt, first: int, end: int, limits: Limits) -> Iterator[_Span]:
    usual = round(1 / ((attempt.stream.average_rate or 30) * attempt.tick_s))
    wanted = takewhile(lambda packet: _earliest(packet) < end, _from_key_frame(attempt.packets, first))
    pending: set[int] = set()
    before: av.VideoFrame | None = None
    begin = 0
    for count, (frame, _) in enumerate(decode(attempt.stream, _noted(wanted, pending), limits), start=1):
        if count > limits.max_frames:
            raise Undecodable(f"more than {limits.max_frames} pictures were decoded")
        if frame.pts is None or (before is not None and frame.pts <= begin):
            continue
        past = {pts for pts in pending if pts <= frame.pts}
        pending -= past
        if before is not None:
            # A packet from which no frame came: until when the one before was to be shown is told by its duration only.
            lost = any(pts < frame.pts for pts in past)
            good = min(frame.pts, begin + (before.duration or usual)) if lost else frame.pts
            yield _Span(before, begin, frame.pts, good)
            usual = frame.pts - begin
        if frame.pts >= end:
            return
        before, begin = frame, frame.pts
    if before is not None:
        until = begin + (before.duration or usual)
        yield _Span(before, begin, until, until)


def _noted(packets: Iterator[av.Packet], pending: set[int]) -> Iterator[av.Packet]:
    for packet in packets:
        if packet.pts is not None:
            pending.add(packet.pts)
        yield packet


def _from_key_frame(packets: Iterator[av.Packet], first: int) -> Iterator[av.Packet]:
    # A file that has to be read from its beginning is then only demuxed, not decoded, up to the segment.
    group: list[av.Packet] = []
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts <= first:
            group.clear()
        group.append(packet)
        if _earliest(packet) > first:
            break
    yield from chain(group, packets)


def _earliest(packet: av.Packet) -> int:
    stamps = [stamp for stamp in (packet.pts, packet.dts) if stamp is not None]
    return min(stamps, default=0)
