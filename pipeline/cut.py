"""Cuts a segment out of longer media by copying its packets: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.stream import Discard

from pipeline.demux import CLIP_SLACK_MS, FORMATS, FORMATS_WITHOUT_ZERO, Kind, best_stream
from pipeline.failures import Cause, FetchFailure, plain_words
from pipeline.remux import Track, remux

AUDIO_LEAD_S = Fraction(1)  # sound before the segment, for decoders that need a run-up
TAIL_S = Fraction(1, 4)  # past the end, because packets come in decoding order
OVERRUN_S = Fraction(15)  # how far one track is read past the end while another has not got there
SEEK_BACK_S = (Fraction(0), Fraction(2), Fraction(12))  # before the file is read from its beginning
READ_BYTES = 1 << 16
LONGEST_READ = 1 << 20  # from another process at once: FFmpeg asks for all of a large packet, and takes what it gets
EXTENSIONS = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg"}

StartInFile = Callable[[int | None], int]


@dataclass(frozen=True)
class Cut:
    """A segment's media.

    Attributes:
        data: the bytes; None: the one file given is the clip already, to be kept as it is.
        extension: of the container, without the dot.
        media_start_ms: where the segment starts on the media's presentation timeline.
    """

    data: bytes | None
    extension: str
    media_start_ms: int


def cut_segment(
    files: Sequence[Any], start_ms: int, end_ms: int, *, max_bytes: int, start_in_file: StartInFile | None = None
) -> Cut:
    """The segment [`start_ms`, `end_ms`) of media in one file, or in several that hold a track each.

    From the key frame at or before the start, sound from a second before it, to a quarter of a second past the end.

    Args:
        files: seekable binary file objects; read, not closed.
        max_bytes: limit of what is read from a file.
        start_in_file: where the segment starts in the (first) file, in ms, as a function of the file's length in ms, or
            None if that is unknown; without it the file's timeline is the segment's.

    Raises:
        FetchFailure: `undecodable`: not media, neither sound nor picture there, or more than `max_bytes`.
    """
    sources: list[_Source] = []
    try:
        for file in files:
            sources.append(_Source(file, max_bytes))
        kinds = _choose(sources)
        length_ms, duration_ms = end_ms - start_ms, sources[0].duration_ms
        first_ms = start_in_file(duration_ms) if start_in_file is not None else start_ms
        if len(sources) == 1 and duration_ms is not None and duration_ms <= length_ms + CLIP_SLACK_MS:
            return Cut(None, sources[0].extension, first_ms)
        origin_s = sources[0].origin_s
        span = origin_s + Fraction(first_ms, 1000), origin_s + Fraction(first_ms + length_ms, 1000)
        tracks = [track for source, its in zip(sources, kinds, strict=True) for track in source.tracks(its, *span)]
        tracks = [track for track in tracks if track.packets]
        if not any(track.passed(span[0]) for track in tracks):
            length = "an unknown time" if duration_ms is None else f"{duration_ms / 1000:g} s"
            words = f"neither sound nor picture at {first_ms / 1000:g} s in media that last {length}"
            raise FetchFailure(Cause.UNDECODABLE, words)
        remuxed = remux([Track(track.stream, track.packets) for track in tracks], origin_s)
        return Cut(remuxed.data, remuxed.extension, first_ms - 1000 * remuxed.shift_s)
    finally:
        for source in sources:
            source.container.close()


@dataclass
class _SegmentTrack:
    """The packets of one stream that the segment needs, and how far the stream has been read."""

    stream: Any
    start_s: Fraction
    end_s: Fraction
    packets: list[Any] = field(default_factory=list)
    first_s: Fraction | None = None  # of what could be used
    clock_s: Fraction | None = None  # decoding time

    def offer(self, packet: Any) -> None:
        """Takes a packet if the segment needs it."""
        packet.pts = packet.pts if packet.pts is not None else packet.dts
        if packet.pts is None or packet.is_corrupt:
            return  # the half packet at the end of half a file would decode to something made up
        shown_s = packet.pts * packet.time_base
        if self._uses(packet, shown_s):
            self.first_s = shown_s if self.first_s is None else self.first_s
            if not self.passed(self.end_s + TAIL_S):
                self.packets.append(packet)
        decoded_s = shown_s if packet.dts is None else packet.dts * packet.time_base
        self.clock_s = decoded_s if self.clock_s is None else max(decoded_s, self.clock_s)

    def _uses(self, packet: Any, shown_s: Fraction) -> bool:
        if self.stream.type == "audio":
            self.first_s = shown_s if self.first_s is None else self.first_s
            return bool(shown_s + (packet.duration or 0) * packet.time_base > self.start_s - AUDIO_LEAD_S)
        if packet.is_keyframe and shown_s <= self.start_s:
            self.packets.clear()  # nothing before this key frame is needed to decode the segment
        return bool(packet.is_keyframe or self.packets)

    def passed(self, time_s: Fraction) -> bool:
        """Whether the stream has been read beyond a time."""
        return self.clock_s is not None and self.clock_s > time_s

    @property
    def begins_late(self) -> bool:
        """Whether the reading began after something that the segment needs."""
        needed_s = self.start_s - AUDIO_LEAD_S if self.stream.type == "audio" else self.start_s
        return self.first_s is None or self.first_s > needed_s


class _Source:
    """One file, opened as often as it takes."""

    def __init__(self, file: Any, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.container = self._open()

    def _open(self) -> Any:
        self._file.seek(0)
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
        try:
            return av.open(self._file, "r", options=options, metadata_errors="ignore", buffer_size=READ_BYTES)
        except av.FFmpegError as error:
            words = f"not a media file of a known format: {error.strerror}"
            raise FetchFailure(Cause.UNDECODABLE, plain_words(words)) from error

    @property
    def duration_ms(self) -> int | None:
        """The declared length, or None."""
        return None if self.container.duration is None else round(self.container.duration / 1000)

    @property
    def origin_s(self) -> Fraction:
        """The timestamp that counts as 0: 0 itself but for formats that begin anywhere."""
        if self.container.format.name not in FORMATS_WITHOUT_ZERO:
            return Fraction(0)
        starts_s = [each.start_time * each.time_base for each in self.container.streams if each.start_time is not None]
        return min(starts_s, default=Fraction(0))

    @property
    def extension(self) -> str:
        """Of the container."""
        name = self.container.format.name.partition(",")[0]
        return EXTENSIONS.get(name, name)

    def tracks(self, kinds: Sequence[Kind], start_s: Fraction, end_s: Fraction) -> list[_SegmentTrack]:
        """What the segment needs of the streams of some kinds."""
        if not kinds:
            return []
        begins_s = Fraction(self.container.start_time or 0, av.time_base)
        targets_s = [start_s - AUDIO_LEAD_S - back_s for back_s in SEEK_BACK_S]
        tracks: list[_SegmentTrack] = []
        for target_s in [*(target_s for target_s in targets_s if target_s > begins_s), None]:
            if tracks:
                self.container.close()
                self.container = self._open()
            tracks = [_SegmentTrack(best_stream(self.container, kind), start_s, end_s) for kind in kinds]
            self._read(tracks, target_s)
            if not any(track.begins_late for track in tracks):
                break
        return tracks

    def _read(self, tracks: Sequence[_SegmentTrack], target_s: Fraction | None) -> None:
        by_index = {track.stream.index: track for track in tracks}
        for stream in self.container.streams:
            if stream.index not in by_index:
                stream.discard = Discard.all
        size = 0
        try:
            if target_s is not None:
                self.container.seek(int(target_s * av.time_base))
            for packet in self.container.demux([track.stream for track in tracks]):
                size += packet.size
                if size > self._max_bytes:
                    words = f"too large: the segment has more than {self._max_bytes / 1e6:g} MB"
                    raise FetchFailure(Cause.UNDECODABLE, words)
                if packet.size:
                    by_index[packet.stream.index].offer(packet)
                if _is_enough(tracks):
                    return
        except (av.FFmpegError, IndexError):
            # A file cut off ends so, or (IndexError) one with a stream that begins later: what came before is good.
            return


def _is_enough(tracks: Sequence[_SegmentTrack]) -> bool:
    # A track that ends before the segment does would have the rest of the file read in search of it.
    return all(track.passed(track.end_s + TAIL_S) for track in tracks) or any(
        track.passed(track.end_s + OVERRUN_S) for track in tracks
    )


def _choose(sources: Sequence[_Source]) -> list[list[Kind]]:
    """Which kinds of track come from which source: each from the first that has one."""
    kinds: list[list[Kind]] = [[] for _ in sources]
    wanted: tuple[Kind, ...] = ("video", "audio")
    for kind in wanted:
        for source, its_kinds in zip(sources, kinds, strict=True):
            if best_stream(source.container, kind) is not None:
                its_kinds.append(kind)
                break
    if not any(kinds):
        raise FetchFailure(Cause.UNDECODABLE, "neither sound nor picture of a known codec")
    return kinds
