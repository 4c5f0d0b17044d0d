"""Files that lie, made out of honest ones with a seed: what a stranger's server may send instead of a clip."""

from __future__ import annotations

import io
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from media_factory import Audio, Video, write_media

EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFF, 0x10000)
FLIPPED = 64  # bits, at most


def honest_files(folder: Path) -> list[bytes]:
    """Small clips in several containers."""
    picture = Video(seconds=10.0, fps=5, width=64, height=48)
    made = [
        write_media(folder / "a.mp4", picture, Audio()),
        write_media(folder / "b.mp4", picture, Audio(), faststart=True),
        write_media(folder / "c.mkv", picture, Audio()),
        write_media(folder / "d.ts", picture, Audio()),
        write_media(folder / "e.avi", picture, Audio(codec="libmp3lame")),
        write_media(folder / "f.wav", None, Audio(codec="pcm_s16le", rate=16_000, layout="mono")),
        write_media(folder / "g.flac", None, Audio(codec="flac", rate=16_000, layout="mono")),
        write_media(folder / "h.webm", None, Audio(codec="libopus", rate=48_000)),
    ]
    return [path.read_bytes() for path in made]


def _flip_bits(data: bytes, dice: random.Random, _: list[bytes]) -> bytes:
    made = bytearray(data)
    for _bit in range(dice.randint(1, FLIPPED)):
        made[dice.randrange(len(made))] ^= 1 << dice.randrange(8)
    return bytes(made)


def _truncate(data: bytes, dice: random.Random, _: list[bytes]) -> bytes:
    return data[: dice.randrange(len(data))]


def _lie_in_a_header(data: bytes, dice: random.Random, _: list[bytes]) -> bytes:
    """Words of the first and last kilobytes, where sizes, counts and rates are, become extreme."""
    made = bytearray(data)
    for _word in range(dice.randint(1, 4)):
        at = dice.randrange(min(2000, len(made) - 4))
        at = at if dice.random() < 0.5 else len(made) - 4 - at
        struct.pack_into(dice.choice(("<I", ">I")), made, at, dice.choice(EXTREMES))
    return bytes(made)


def _lie_in_a_box(data: bytes, dice: random.Random, _: list[bytes]) -> bytes:
    """A box of an MP4 file, or whatever lies there, declares another size, duration, width or count."""
    made = bytearray(data)
    names = (b"moov", b"trak", b"mdia", b"stsz", b"stts", b"stsc", b"stco", b"mvhd", b"tkhd", b"mdhd", b"avc1", b"mp4a")
    places = [at for name in names for at in [made.find(name)] if at >= 4]
    if not places:
        return _lie_in_a_header(data, dice, [])
    at = dice.choice(places) + dice.choice((-4, 4, 8, 12, 16, 20, 24, 28))
    struct.pack_into(">I", made, max(0, min(at, len(made) - 4)), dice.choice(EXTREMES))
    return bytes(made)


def _splice(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """The head of one file and the tail of another, or a part twice, or zeros within."""
    at, other = dice.randrange(len(data)), dice.choice(others)
    kind = dice.randrange(3)
    if kind == 0:
        return data[:at] + other[dice.randrange(len(other)) :]
    if kind == 1:
        return data[:at] + data[dice.randrange(at + 1) : at] + data[at:]
    return data[:at] + bytes(dice.randint(1, 5000)) + data[at:]


def _noise(data: bytes, dice: random.Random, _: list[bytes]) -> bytes:
    """An honest head, and then anything."""
    keep = dice.choice((0, 4, 64, 1024))
    return data[:keep] + dice.randbytes(dice.randint(1, 20_000))


MUTATIONS: tuple[Callable[[bytes, random.Random, list[bytes]], bytes], ...] = (
    _flip_bits,
    _truncate,
    _lie_in_a_header,
    _lie_in_a_box,
    _splice,
    _noise,
)


def mutated(folder: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many files, each with words for what was done to it."""
    honest, dice = honest_files(folder), random.Random(seed)
    for number in range(count):
        change, data = MUTATIONS[number % len(MUTATIONS)], dice.choice(honest)
        yield f"{number} {change.__name__}", change(data, dice, honest)


def oddities(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Things that are no clip at all, or far too much of one."""
    yield "empty", b""
    yield "one byte", b"\x00"
    yield "text", b"just text\n" * 1000
    yield "page", b"<!DOCTYPE html><html><body>Sign in to confirm</body></html>"
    yield "playlist of local files", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "list of local files", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield "session description", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n"
    yield "drawing", b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"></svg>'
    yield "pickle", pickle.dumps({"a": print})
    yield "npy with a pickle", _npy_of_objects()
    yield "tar that leaves its folder", _escaping_tar()
    yield "zip of zeros", _zip_of_zeros()
    yield (
        "wav that declares 4 GB",
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x02\0\x80\xbb\0\0\0\xee\x02\0\x04\0\x10\0data\xff\xff\xff\xff",
    )
    yield "mp4 box that holds itself", struct.pack(">I", 16) + b"moov" + struct.pack(">I", 0) + b"moov"
    nested = b""
    for _ in range(2000):
        nested = struct.pack(">I", len(nested) + 8) + b"moov" + nested
    yield "mp4 boxes two thousand deep", nested
    many = Video(seconds=60.0, fps=500, width=16, height=16, key_every=1000, b_frames=0)
    yield "thirty thousand pictures", write_media(folder / "many.mp4", many).read_bytes()
    large = Video(seconds=2.0, fps=2, width=8192, height=4096, b_frames=0)
    yield "pictures of 33 megapixels", write_media(folder / "large.mp4", large).read_bytes()
    larger = Video(seconds=1.0, fps=1, width=10_000, height=1_000, b_frames=0)
    yield "pictures that are too wide", write_media(folder / "wide.mp4", larger).read_bytes()
    slow = Video(seconds=10.0, fps=Fraction(1, 5), width=64, height=48)
    yield "a picture every five seconds", write_media(folder / "slow.mp4", slow).read_bytes()
    rate = Audio(rate=8000, layout="mono", codec="pcm_s16le", seconds=3600.0)
    yield "an hour of sound", write_media(folder / "hour.wav", None, rate).read_bytes()
    channels = Audio(rate=16_000, layout="7.1", codec="pcm_s16le")
    yield "eight channels", write_media(folder / "channels.wav", None, channels).read_bytes()


def _npy_of_objects() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return sink.getvalue()


def _escaping_tar() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in ("../../escaped", "/tmp/escaped"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"data"))
    return sink.getvalue()


def _zip_of_zeros() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    return sink.getvalue()
