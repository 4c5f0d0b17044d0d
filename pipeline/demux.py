"""Opens a clip's media for decoding: which formats are read, which of its streams, and from where in them."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeAlias

import av
from av.stream import Discard, Disposition

logger = logging.getLogger(__name__)

# Self-contained containers only. Playlists and scripts (hls, dash, concat, sdp) would make a stranger's file open other
# files or addresses; still pictures, captions and "tty" would count as video.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,ogg,asf,"
    "wav,w64,flac,mp3,aac,aiff,caf,au,amr,ac3,eac3,wv,ape,tta"
)
# Formats whose time stamps begin anywhere (MPEG-TS: 1.4 s in FFmpeg's own files; MP3: after the encoder's delay).
FORMATS_WITHOUT_ZERO = ("mpegts", "mpeg", "mp3")
READ_BYTES = 1 << 18
# A file this much longer than the segment may still be the segment's own clip, cut at packets or key frames.
CLIP_SLACK_MS = 2000
# How far before the wanted time a seek aims when the one before it landed too late (an index in decoding time, a
# format without an index). After the last of them the file is read from its beginning.
SEEK_BACK_S = (Fraction(0), Fraction(2), Fraction(12))


class Undecodable(Exception):  # noqa: N818 - the contract between the parts names it so
    """The media holds no usable sound and no usable picture of the segment; its one argument says why."""


Kind = Literal["audio", "video"]
# An av.AudioStream or av.VideoStream with a codec; PyAV's type stubs have no name for that.
Stream: TypeAlias = Any


@dataclass(frozen=True)
class Limits:
    """How much a stranger's clip may ask of the decoder; more is `Undecodable`.

    `max_width` and `max_height` are in pixels, `max_frames` counts decoded pictures (those before the segment's start
    included), `max_samples` sound samples over all channels, `max_bad_packets` what may be skipped in one track.
    """

    max_width: int = 8192
    max_height: int = 8192
    max_frames: int = 36_000
    max_samples: int = 50_000_000
    max_channels: int = 64
    max_bad_packets: int = 500


class Attempt(NamedTuple):
    """One way to read a stream: its packets from a seek or from the beginning, up to the first error that ends them.

    `tick_s` is the unit of its time stamps, in seconds.
    """

    stream: Stream
    tick_s: Fraction
    packets: Iterator[av.Packet]
    from_beginning: bool


class Demuxer:
    """One clip's media, opened as often as a demuxer from which nothing was read is needed (about 2 ms each time).

    `source` is the media's bytes or the path of a file. Nothing but these bytes is ever opened. Raises `Undecodable`
    where they are not media of a format in `FORMATS` or declare more than `limits` allows, OSError where the file
    cannot be read.
    """

    def __init__(self, source: bytes | str | Path, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._container = self._open()
        self._read = False
        # Once, before anything is read: FFmpeg may find more streams on the way, PyAV knows only those found at first.
        self._indices = {kind: stream.index for kind, stream in _best_streams(self._container).items()}

    def __enter__(self) -> Demuxer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        self._container.close()
        self._file.close()

    def _open(self) -> av.container.InputContainer:
        # A file object rather than a name: FFmpeg would take "concat:…" or "http:…" for more than a file.
        source = self._source
        self._file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
        options = {
            "format_whitelist": FORMATS,
            "protocol_whitelist": "none",
            "max_pixels": str(self._limits.max_width * self._limits.max_height),
        }
        try:
            container = av.open(self._file, mode="r", options=options, metadata_errors="ignore", buffer_size=READ_BYTES)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            self._file.close()
            raise Undecodable(f"not a media file of a known format: {error.strerror}") from error
        except OSError as error:
            self._file.close()
            if error.errno != errno.EINVAL:  # FFmpeg seeks before the beginning of a file that is shorter than a header
                raise
            raise Undecodable("not a media file of a known format: it is empty or nearly so") from error
        try:
            self._check(container)
        except Undecodable:
            container.close()
            self._file.close()
            raise
        return container

    def _check(self, container: av.container.InputContainer) -> None:
        limits, best = self._limits, _best_streams(container)
        video, audio = best.get("video"), best.get("audio")
        if video is not None and (video.width > limits.max_width or video.height > limits.max_height):
            allowed = f"{limits.max_width}x{limits.max_height}"
            raise Undecodable(f"the picture is {video.width}x{video.height} pixels; at most {allowed} are decoded")
        if audio is not None and audio.channels > limits.max_channels:
            raise Undecodable(f"the sound has {audio.channels} channels; at most {limits.max_channels} are decoded")

    def _unread(self) -> av.container.InputContainer:
        if self._read:
            self._close()
            self._container = self._open()
        self._read = True
        return self._container

    def attempts(self, kind: Kind, first_s: Fraction) -> Iterator[Attempt]:
        """Ways to read one kind's stream from the packet of `first_s` on; the last reads from the beginning.

        The caller takes the next one where what it got begins after `first_s`. Each comes with a new decoder and ends
        the one before it. Nothing comes where there is no such stream.
        """
        if kind not in self._indices:
            return
        stream = self._container.streams[self._indices[kind]]
        begins_s = (stream.start_time or 0) * stream.time_base
        for target_s in (*(first_s - back_s for back_s in SEEK_BACK_S), None):
            if target_s is None or target_s > begins_s:
                container = self._unread()
                stream = container.streams[self._indices[kind]]
                packets = _packets(container, stream, target_s)
                yield Attempt(stream, stream.time_base, packets, from_beginning=target_s is None)

    def has(self, kind: Kind) -> bool:
        """Whether there is such a stream with a known codec; attached pictures are no video."""
        return kind in self._indices

    @property
    def description(self) -> str:
        """Format and declared length, for messages."""
        length = "of unknown length" if self._declared_ms is None else f"{self._declared_ms / 1000:.1f} s long"
        return f"{self._container.format.name} {length}"

    @property
    def begins_s(self) -> Fraction:
        """The time stamp that counts as 0, in seconds: the first one in `FORMATS_WITHOUT_ZERO`, otherwise 0 itself."""
        container = self._container
        anywhere = container.format.name in FORMATS_WITHOUT_ZERO and container.start_time is not None
        return Fraction(container.start_time, 1_000_000) if anywhere else Fraction(0)

    @property
    def duration_ms(self) -> int | None:
        """The declared length in ms; where none is declared, that of the packets; None where there are no tracks."""
        if self._declared_ms is not None:
            return self._declared_ms
        ends = [self._last_end_s(kind) for kind in self._indices]
        return round(1000 * (max(ends) - self.begins_s)) if ends else None

    @property
    def _declared_ms(self) -> int | None:
        container = self._container
        if container.duration is not None:
            return round(container.duration / 1000)
        declared = [s.duration * s.time_base for s in container.streams if s.duration and s.time_base]
        return round(1000 * max(declared)) if declared else None

    def _last_end_s(self, kind: Kind) -> Fraction:
        *_, attempt = self.attempts(kind, Fraction(0))
        ends = [packet.pts + (packet.duration or 0) for packet in attempt.packets if packet.pts is not None]
        return max(ends, default=0) * attempt.tick_s


def _best_streams(container: av.container.InputContainer) -> dict[Kind, Stream]:
    kinds: tuple[Kind, ...] = ("audio", "video")
    return {kind: stream for kind in kinds if (stream := best_stream(container, kind)) is not None}


def best_stream(container: av.container.InputContainer, kind: Kind) -> Stream | None:
    """FFmpeg's choice among the streams of one kind, without those of unknown codec and pictures attached as covers."""
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    usable = [
        stream
        for stream in container.streams
        if stream.type == kind and stream.codec_context is not None and not stream.disposition & pictures
    ]
    best = container.streams.best(kind)
    if best is not None and any(stream.index == best.index for stream in usable):
        return best
    return usable[0] if usable else None


def _packets(container: av.container.InputContainer, stream: Stream, seek_s: Fraction | None) -> Iterator[av.Packet]:
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    try:
        if seek_s is not None:
            container.seek(int(seek_s / stream.time_base), stream=stream)
        yield from (packet for packet in container.demux(stream) if packet.size)
    except MemoryError:
        raise
    # PyAV 18 itself raises IndexError at the end of a file in which streams appeared on the way.
    except (av.FFmpegError, IndexError) as error:
        # A cut-off file ends so; what came before is good and is kept.
        logger.debug("%s stream ends early: %s", stream.type, error)


def decode(stream: Stream, packets: Iterable[av.Packet], limits: Limits) -> Iterator[tuple[Any, bool]]:
    """A stream's frames as they are heard or shown, each with whether packets were skipped before it as undecodable.

    One thread: a process per core decodes more clips than threads inside one do.
    """
    context = stream.codec_context
    context.thread_count = 1
    context.thread_type = "NONE"
    context.options = {"max_pixels": str(limits.max_width * limits.max_height)}
    bad, lost = 0, False
    for packet, following in pairwise(chain(packets, [None, None])):
        # A cut-off file may end in half a packet, half of whose frame would be made up.
        broken = packet is not None and packet.is_corrupt and following is None
        frames = []
        if not broken:
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError as error:
                logger.debug("%s packet skipped: %s", stream.type, error)
                broken = True
        for frame in frames:
            yield frame, lost
            lost = False
        if broken:
            lost = True
            bad += 1
        if bad > limits.max_bad_packets:
            logger.debug("%s stream given up after %d bad packets", stream.type, bad)
            return
