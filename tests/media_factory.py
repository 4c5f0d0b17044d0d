"""Makes test media with PyAV: pictures that carry their own number, tones of known frequency, level and phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

# The picture's centre square is a 4 × 4 board: a white and three black corners, which tell its rotation, and 12 bits.
CORNERS = {(0, 0): 1, (0, 3): 0, (3, 0): 0, (3, 3): 0}
BITS = [(row, column) for row in range(4) for column in range(4) if (row, column) not in CORNERS]
BOARD_OF_SHORT_SIDE = 0.875
# QuickTime's a, b, c, d of (x, y) -> (a x + c y, b x + d y), y down, by degrees clockwise from stored to shown.
TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@dataclass(frozen=True)
class Video:
    """A picture track. Frame i shows number `numbers[i]` (default i) from `times_s[i]` (default i / fps) on.

    `width` × `height` are as shown; with `turn` (90, 180, 270) the file stores the pictures turned and a display matrix
    that tells to turn them by so many degrees clockwise.
    """

    seconds: float = 10.0
    fps: Fraction | int = 30
    width: int = 144
    height: int = 96
    codec: str = "libx264"
    times_s: Sequence[Fraction] | None = None
    numbers: Sequence[int] | None = None
    turn: int = 0
    key_every: int = 30
    b_frames: int = 2
    tick_s: Fraction | None = None
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)

    def times(self) -> list[Fraction]:
        """Presentation time of each frame, in seconds."""
        if self.times_s is not None:
            return list(self.times_s)
        return [Fraction(i) / Fraction(self.fps) for i in range(round(self.seconds * self.fps))]


@dataclass(frozen=True)
class Audio:
    """A sound track of `samples` float32 [channels, n] in [−1, 1], or of a tone of `frequency` Hz in every channel."""

    seconds: float = 10.0
    rate: int = 44100
    layout: str = "stereo"
    codec: str = "aac"
    frequency: float = 440.0
    amplitude: float = 0.5
    samples: np.ndarray | None = None
    start_s: Fraction = Fraction(0)
    options: dict[str, str] = field(default_factory=dict)

    def wave(self) -> np.ndarray:
        """float32 [channels, n]."""
        if self.samples is not None:
            return self.samples
        channels = av.AudioLayout(self.layout).nb_channels
        return np.tile(tone(self.seconds, self.rate, self.frequency, self.amplitude), (channels, 1))


def tone(seconds: float, rate: int, frequency: float = 440.0, amplitude: float = 0.5) -> np.ndarray:
    """A sine that begins at phase 0: float32 [n]."""
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def music(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Gliding tones and bursts below 6 kHz, different in each channel, never repeating: float32 [channels, n]."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    rows = []
    for _ in range(channels):
        phase = 2 * np.pi * (generator.uniform(200, 800) * times + generator.uniform(20, 90) * times**2 / 2)
        burst = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * generator.uniform(1, 3) * times))
        rows.append(0.3 * np.sin(phase) * burst + 0.2 * np.sin(2 * np.pi * generator.uniform(1000, 3000) * times))
    return np.asarray(rows, np.float32)


def board(number: int, width: int, height: int) -> np.ndarray:
    """The picture of a number below 4096: uint8 [height, width, 3], grey around the board, with a light texture."""
    grey = np.full((height, width), 128, np.float32)
    side = BOARD_OF_SHORT_SIDE * min(width, height)
    top, left = (height - side) / 2, (width - side) / 2
    values = CORNERS | {cell: number >> bit & 1 for bit, cell in enumerate(BITS)}
    for (row, column), value in values.items():
        rows = slice(round(top + row * side / 4), round(top + (row + 1) * side / 4))
        columns = slice(round(left + column * side / 4), round(left + (column + 1) * side / 4))
        grey[rows, columns] = 220 if value else 35
    grey += 12 * np.sin(np.arange(width) / 9 + number) + 12 * np.sin(np.arange(height) / 7)[:, None]
    return np.stack([grey, grey - 4, grey + 6], axis=-1).astype(np.uint8)


def read_board(frame: np.ndarray) -> int:
    """The number in a decoded uint8 [size, size, 3]. Raises ValueError where it is turned, cut off or unreadable."""
    size = frame.shape[0] / 4
    values = {}
    for row in range(4):
        for column in range(4):
            rows = slice(round((row + 0.3) * size), round((row + 0.7) * size))
            columns = slice(round((column + 0.3) * size), round((column + 0.7) * size))
            level = float(frame[rows, columns].mean())
            if 90 < level < 170:
                raise ValueError(f"cell {row}, {column} is neither black nor white but {level:.0f}")
            values[row, column] = int(level > 128)
    if any(values[cell] != value for cell, value in CORNERS.items()):
        raise ValueError("the board is turned or mirrored")
    return sum(values[cell] << bit for bit, cell in enumerate(BITS))


def write_media(
    path: Path,
    video: Video | None = None,
    audio: Audio | None = None,
    *,
    faststart: bool = False,
    container: str | None = None,
    cover: bool = False,
    **muxer_options: str,
) -> Path:
    """Encodes a file whose format is its suffix's (or `container`), tracks interleaved. `cover` attaches a picture."""
    options = ({"movflags": "+faststart"} if faststart else {}) | muxer_options
    with av.open(str(path), "w", format=container, options=options) as output:
        packets: list[av.Packet] = []
        streams = [_video_stream(output, video) if video else None, _audio_stream(output, audio) if audio else None]
        cover_stream = _cover_stream(output) if cover else None
        if video:
            packets += _encode_video(streams[0], video)
        if audio:
            packets += _encode_audio(streams[1], audio)
        if cover_stream is not None:
            picture = av.VideoFrame.from_ndarray(board(7, 96, 96), format="rgb24")
            output.mux(cover_stream.encode(picture))
            output.mux(cover_stream.encode(None))
        output.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def remux(source: Path, path: Path, edit: Callable[[av.Packet], bool], **options: str) -> Path:
    """Copies the packets for which `edit` returns True, as it leaves them, without decoding."""
    with av.open(str(source)) as given, av.open(str(path), "w", options=options) as output:
        streams = {stream.index: output.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            stream = streams[packet.stream.index]
            if packet.size and edit(packet):
                packet.stream = stream
                output.mux(packet)
    return path


def cut_copy(source: Path, path: Path, first_s: float, last_s: float, shift_s: int, lead_s: float = 1.0) -> Path:
    """Copies the packets of [first_s, last_s], pictures from the key frame before, sound from `lead_s` before.

    Time stamps become `shift_s` seconds smaller. Independent of the product's own cutter.
    """
    with av.open(str(source)) as given:
        # An MP4's edit list counts in the movie's time base, whose default of 1 ms would move the sound.
        options = {"movie_timescale": str(given.streams.audio[0].rate)} if path.suffix == ".mp4" else {}
        videos = [packet for packet in given.demux() if packet.size and packet.stream.type == "video"]
        keys = [packet.pts for packet in videos if packet.is_keyframe and packet.pts * packet.time_base <= first_s]
    begun = False

    def edit(packet: av.Packet) -> bool:
        nonlocal begun
        time = float(packet.pts * packet.time_base)
        if packet.stream.type == "video":
            begun = begun or packet.pts == keys[-1]
            kept = begun and time <= last_s
        else:
            kept = first_s - lead_s <= time <= last_s
        shift = int(shift_s / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, None if packet.dts is None else packet.dts - shift
        return kept

    return remux(source, path, edit, **options)


def damage(source: Path, path: Path, kind: str, first_s: float, last_s: float) -> Path:
    """Overwrites with zeros the packets of one kind of stream between two times."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as given:
        for packet in given.demux():
            hit = packet.size and packet.stream.type == kind
            if hit and first_s <= float(packet.pts * packet.time_base) < last_s:
                data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    return path


def _video_stream(output: av.container.OutputContainer, video: Video) -> av.VideoStream:
    stream = output.add_stream(video.codec, rate=Fraction(video.fps))
    size = (video.width, video.height)
    stream.width, stream.height = size[::-1] if video.turn in (90, 270) else size
    stream.pix_fmt = video.pixel_format
    stream.codec_context.time_base = video.tick_s or 1 / Fraction(video.fps)
    stream.codec_context.thread_count = 1
    if video.codec == "libx264":
        stream.codec_context.gop_size = video.key_every
        stream.codec_context.max_b_frames = video.b_frames
        stream.options = {"preset": "ultrafast", "crf": "20", "sc_threshold": "0"} | video.options
    elif video.codec == "libvpx-vp9":
        stream.codec_context.gop_size = video.key_every
        stream.options = {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0"} | video.options
    else:
        stream.options = dict(video.options)
    if video.turn:
        a, b, c, d = (65536 * value for value in TURNS[video.turn])
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    return stream


def _encode_video(stream: av.VideoStream, video: Video) -> list[av.Packet]:
    times = video.times()
    numbers = video.numbers if video.numbers is not None else range(len(times))
    tick_s = stream.codec_context.time_base
    packets: list[av.Packet] = []
    for time, number in zip(times, numbers, strict=True):
        stored = np.ascontiguousarray(np.rot90(board(number, video.width, video.height), video.turn // 90))
        frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
        frame.pts, frame.time_base = round(time / tick_s), tick_s
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _audio_stream(output: av.container.OutputContainer, audio: Audio) -> av.AudioStream:
    stream = output.add_stream(audio.codec, rate=audio.rate, layout=audio.layout)
    stream.codec_context.thread_count = 1
    stream.options = ({"aac_coder": "fast"} if audio.codec == "aac" else {}) | audio.options
    return stream


def _encode_audio(stream: av.AudioStream, audio: Audio) -> list[av.Packet]:
    wave, packets = audio.wave(), []
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=audio.layout, rate=audio.rate)
    for begin in range(0, wave.shape[1], 1024):
        chunk = np.ascontiguousarray(wave[:, begin : begin + 1024].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(chunk, format="flt", layout=audio.layout)
        frame.sample_rate, frame.time_base = audio.rate, Fraction(1, audio.rate)
        frame.pts = begin + round(audio.start_s * audio.rate)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    return packets + stream.encode(None)


def _cover_stream(output: av.container.OutputContainer) -> av.VideoStream:
    stream = output.add_stream("mjpeg", rate=1)
    stream.width, stream.height, stream.pix_fmt = 96, 96, "yuvj420p"
    stream.disposition = av.stream.Disposition.attached_pic
    return stream
