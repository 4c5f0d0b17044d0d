"""From a clip's sound track to its segment's samples: exact cut at the native rate, then one pass of libswresample."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain, dropwhile
from pathlib import Path

import av
import numpy as np
import soundfile

from pipeline.demux import Attempt, Demuxer, Limits, Undecodable, decode

logger = logging.getLogger(__name__)

# Formats without loss, where any sample can be reached exactly. MP3 and Vorbis go through PyAV, whose decoder is always
# started at the same packet, so that a cut and the whole file give the same samples.
SOUND_FILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"fLaC", b"FORM", b".snd", b"caff")
SOUND_FILE_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF")
# What FFmpeg takes a bare number of channels for.
DEFAULT_LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# PyAV 18 reads one plane too many of a planar frame of 8 and more channels.
MAX_PLANES = 7
# libswresample takes half the time for pieces that stay in the cache; the samples are the same.
CHUNK_SAMPLES = 1 << 14


@dataclass(frozen=True)
class SoundRules:
    """The constants that decide a clip's samples beside its sample rate; they belong to the spec of a column of sound.

    `preroll_s`: decoding starts at the first packet that ends later than this many seconds before the segment, neither
    earlier nor later, so that a cut and the whole file give the same samples. `gap_s`: a frame whose time is off by
    more is put where its time says, otherwise right after the one before. `rematrix_maxval`: the largest sum of a
    down-mix's coefficients (1: two equal channels keep their level; FFmpeg's own choice for floats makes them 1.41
    times louder).
    """

    preroll_s: float = 0.5
    gap_s: float = 0.05
    rematrix_maxval: float = 1.0


@dataclass(frozen=True)
class Sound:
    """A segment's sound at its native rate.

    `samples` float32 [channels, n] in about [−1, 1], n up to the last decoded one, zeros where nothing was decoded;
    `decoded` counts the points in time that were.
    """

    samples: np.ndarray
    rate: int
    layout: str
    decoded: int

    @property
    def seconds(self) -> float:
        """Seconds of sound that were decoded."""
        return self.decoded / self.rate


def _nearest(samples: Fraction) -> int:
    """Half a sample goes up, and not to the even neighbour: so a cut, whose times are shifted, rounds as its source."""
    return math.floor(samples + Fraction(1, 2))


class _Timeline:
    """The segment's samples, filled frame by frame; rate and channels are those of its first frame."""

    def __init__(self, frame: av.AudioFrame, start_s: Fraction, end_s: Fraction, limits: Limits) -> None:
        self.rate, self.layout = frame.sample_rate, frame.layout.name
        self.begin = _nearest(start_s * self.rate)
        shape = (frame.layout.nb_channels, _nearest(end_s * self.rate) - self.begin)
        _check_size(shape, limits)
        self.samples = np.zeros(shape, np.float32)
        self.next = self.end = self.decoded = 0
        self._converter: av.AudioResampler | None = None
        self._converts = ""

    def put(self, frame: av.AudioFrame, at: int) -> None:
        """Puts a frame's samples at an index, which may lie outside the segment."""
        channels = self._channels(frame)
        self.next = at + len(channels[0])
        first, last = max(at, 0), min(self.next, self.samples.shape[1])
        if first < last:
            for row, channel in zip(self.samples, channels, strict=True):
                row[first:last] = channel[first - at : last - at]
            self.decoded += max(0, last - max(first, self.end))
            self.end = max(self.end, last)

    def _channels(self, frame: av.AudioFrame) -> list[np.ndarray] | np.ndarray:
        given = f"{frame.format.name} {frame.layout.name} {frame.sample_rate}"
        if given == f"fltp {self.layout} {self.rate}" and len(self.samples) <= MAX_PLANES:
            return [np.frombuffer(memoryview(plane), np.float32, frame.samples) for plane in frame.planes]
        if self._converter is None or given != self._converts:
            # A stream may change its format on the way; what comes is then brought to the first frame's.
            self._converter = av.AudioResampler(format="flt", layout=self.layout, rate=self.rate)
            self._converts = given
        frame.pts = None
        try:
            converted = self._converter.resample(frame)
        except av.error.ArgumentError as error:
            logger.debug("sound frame skipped, its form cannot be converted: %s", error)
            self._converter = None
            converted = []
        channels = len(self.samples)
        parts = [np.frombuffer(memoryview(part.planes[0]), np.float32, part.samples * channels) for part in converted]
        return np.concatenate([np.zeros(0, np.float32), *parts]).reshape(-1, channels).T

    def sound(self) -> Sound | None:
        """What was put, without what is missing at the end; None where nothing lies inside the segment."""
        if not self.decoded:
            return None
        return Sound(self.samples[:, : self.end], self.rate, self.layout, self.decoded)


def _check_size(shape: tuple[int, int], limits: Limits) -> None:
    if shape[0] * shape[1] > limits.max_samples:
        size = f"{shape[0]} channels of {shape[1]} samples"
        raise Undecodable(f"the segment's sound has {size}; at most {limits.max_samples} samples are decoded")


def decode_sound(
    demuxer: Demuxer, start_s: Fraction, end_s: Fraction, rules: SoundRules, limits: Limits
) -> Sound | None:
    """The sound between two times of the media's own timeline; None where there is none.

    Raises `Undecodable` where the stream holds more than `limits` allows.
    """
    attempt = _from_canonical_packet(demuxer, start_s - Fraction(rules.preroll_s))
    if attempt is None:
        return None
    timeline: _Timeline | None = None
    placed, decoded = False, 0
    for frame, lost in decode(attempt.stream, attempt.packets, limits):
        decoded += frame.samples * frame.layout.nb_channels
        if decoded > limits.max_samples:
            raise Undecodable(f"the sound decodes to more than {limits.max_samples} samples")
        if timeline is None:
            timeline = _Timeline(frame, start_s, end_s, limits)
            samples_per_tick = attempt.tick_s * timeline.rate
        at = timeline.next
        if frame.pts is not None:
            by_time = _rounded(frame.pts, samples_per_tick) - timeline.begin
            # After a skipped packet a shift of one packet would stay below gap_s and move all that follows.
            if not placed or lost or abs(by_time - at) > rules.gap_s * timeline.rate:
                at, placed = by_time, True
        timeline.put(frame, at)
        if timeline.next >= timeline.samples.shape[1]:
            break
    return timeline.sound() if timeline is not None else None


def _rounded(ticks: int, factor: Fraction) -> int:
    # In whole numbers: a Fraction for every frame would cost a tenth of the decoding.
    return (2 * ticks * factor.numerator + factor.denominator) // (2 * factor.denominator)


def _from_canonical_packet(demuxer: Demuxer, first_s: Fraction) -> Attempt | None:
    for attempt in demuxer.attempts("audio", first_s):
        first_tick = first_s / attempt.tick_s
        first = next(attempt.packets, None)
        if attempt.from_beginning or (first is not None and first.pts is not None and first.pts <= first_tick):
            packets = chain([] if first is None else [first], attempt.packets)
            return attempt._replace(packets=dropwhile(partial(_ends_by, first_tick), packets))
    return None


def _ends_by(tick: Fraction, packet: av.Packet) -> bool:
    return packet.pts is not None and packet.pts + (packet.duration or 0) <= tick


@contextmanager
def open_sound_file(source: bytes | str | Path) -> Iterator[soundfile.SoundFile | None]:
    """The source opened by libsndfile, or None where it is not one of the formats without loss that it reads."""
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        opened = None
        if magic in SOUND_FILE_MAGIC:
            try:
                opened = soundfile.SoundFile(file)
            except soundfile.LibsndfileError as error:
                logger.debug("left to PyAV: %s", error)
        if opened is None or opened.format not in SOUND_FILE_FORMATS or opened.channels not in DEFAULT_LAYOUTS:
            yield None
            return
        with opened:
            yield opened


def read_sound(file: soundfile.SoundFile, start_s: Fraction, end_s: Fraction, limits: Limits) -> Sound | None:
    """As `decode_sound`, from a file whose timeline begins with its first sample. Raises `Undecodable` as that does."""
    first = _nearest(start_s * file.samplerate)
    last = min(_nearest(end_s * file.samplerate), file.frames)
    if first >= last:
        return None
    _check_size((file.channels, last - first), limits)
    try:
        file.seek(first)
        samples = np.ascontiguousarray(file.read(last - first, dtype="float32", always_2d=True).T)
    except soundfile.LibsndfileError as error:
        logger.debug("left to PyAV: %s", error)
        return None
    count = samples.shape[1]
    return Sound(samples, file.samplerate, DEFAULT_LAYOUTS[file.channels], count) if count else None


def resample(sound: Sound, sample_rate: int, rules: SoundRules) -> np.ndarray:
    """One channel at another rate: float32 [round(n · sample_rate / rate)]; of two channels the mean.

    libswresample's own filter and down-mix, in one pass over the whole segment; sample 0 stays at time 0. Raises
    `Undecodable` where it knows no way from that layout or rate.
    """
    channels, count = sound.samples.shape
    form = "fltp" if channels <= MAX_PLANES else "flt"
    graph = av.filter.Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add("abuffer", sample_rate=str(sound.rate), sample_fmt=form, channel_layout=sound.layout),
        graph.add("aresample", rematrix_maxval=str(rules.rematrix_maxval)),
        graph.add("aformat", sample_rates=str(sample_rate), sample_fmts="flt", channel_layouts="mono"),
        graph.add("abuffersink"),
    )
    try:
        graph.configure()
    except av.error.ArgumentError as error:
        raise Undecodable(f"sound of {sound.rate} Hz, {sound.layout}, cannot be resampled") from error
    for begin in range(0, count, CHUNK_SAMPLES):
        chunk = sound.samples[:, begin : begin + CHUNK_SAMPLES]
        if form == "flt":
            chunk = np.ascontiguousarray(chunk.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(chunk, format=form, layout=sound.layout)
        frame.sample_rate = sound.rate
        graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray()[0])
        except av.EOFError:
            break
    if not parts:
        raise Undecodable(f"{count} samples of sound at {sound.rate} Hz are too few to be resampled")
    return np.concatenate(parts)[: round(count * sample_rate / sound.rate)]
