"""Tar shards: deterministic, readable by any tar or WebDataset tool, and fixed-stride where they hold features.

A feature tar holds, sample after sample, `<key>.json` and `<key>.<array>.npy`. Every json of a shard is padded with
spaces to one multiple of 512 bytes (the shard's largest) and arrays have one shape, so that every sample takes the same
number of bytes: a memory map of the first n·stride bytes is one strided array.

Every byte follows from the content: ustar headers, `mtime=0`, uid and gid 0, members in the order given.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

BLOCK = 512
END_OF_TAR = bytes(2 * BLOCK)


@dataclass(frozen=True)
class TarFacts:
    """A finished tar: its size in bytes and its content's sha256; `digest8` goes into its name."""

    size: int
    sha256: str

    @property
    def digest8(self) -> str:
        """First 8 hex digits of the sha256."""
        return self.sha256[:8]


@dataclass(frozen=True)
class Sample:
    """One clip's row of a feature tar: `meta` becomes the json, `array` the npy."""

    key: str
    meta: dict[str, Any]
    array: np.ndarray


@dataclass(frozen=True)
class SamplePlace:
    """Where a sample lies in its tar (byte offsets and sizes) and the xxh3-64 of its bytes."""

    sample_offset: int
    sample_bytes: int
    json_offset: int
    json_bytes: int
    array_offset: int
    array_bytes: int
    sample_xxh3: str


def _pad(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def member(name: str, data: bytes) -> bytes:
    """One tar member: header, data, padding. Raises ValueError for a name that a ustar header cannot hold."""
    if len(name.encode()) > 100 or name.startswith("/") or "/../" in f"/{name}/":
        raise ValueError(f"expected a member name of at most 100 bytes that stays in its folder, got {name!r}")
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    return header + data + bytes(_pad(len(data)) - len(data))


# numpy reads .npy headers with Python's parser, and that of Python 3.11 fails with a SystemError where two threads are
# in it at once (cpython issue 106905).
PARSING = threading.Lock()


def npy_bytes(array: np.ndarray) -> bytes:
    """An array as a .npy file (format 1.0, C order)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


@lru_cache(maxsize=64)
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The bytes that `npy_bytes` puts before the values of such an array."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def npy_array(data: bytes) -> np.ndarray:
    """The inverse of `npy_bytes`; refuses pickles. Raises ValueError for anything that is no plain array."""
    try:
        with PARSING:
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (TypeError, EOFError, SyntaxError, tokenize.TokenError) as error:  # numpy reads headers as Python literals
        raise ValueError(f"expected a plain .npy array: {error}") from error


class _DigestingFile:
    """Counts and hashes what is written, so that a tar's name is known when its last byte is."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.size += len(data)

    def facts(self) -> TarFacts:
        return TarFacts(self.size, self.digest.hexdigest())


def write_media_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> tuple[TarFacts, dict[str, int]]:
    """Writes `(name, data)` members in order.

    Returns:
        the tar's facts, and by member name the offset of the member's data.
    """
    offsets: dict[str, int] = {}
    with open(path, "wb") as raw:
        out = _DigestingFile(raw)
        for name, data in members:
            offsets[name] = out.size + BLOCK
            out.write(member(name, data))
        out.write(END_OF_TAR)
    return out.facts(), offsets


def write_feature_tar(path: Path, array_name: str, samples: Sequence[Sample]) -> tuple[TarFacts, list[SamplePlace]]:
    """Writes a fixed-stride feature tar.

    Args:
        array_name: `<key>.<array_name>.npy` is the array's member.
        samples: at least one; arrays of one shape and dtype.

    Returns:
        the tar's facts and each sample's place, in order. All `sample_bytes` are equal: the stride.

    Raises:
        ValueError: no samples, or arrays that differ in shape or dtype.
    """
    kinds = {(sample.array.shape, sample.array.dtype.str) for sample in samples}
    if len(kinds) != 1:
        raise ValueError(f"expected one or more samples with arrays of one shape and dtype, got {sorted(kinds)}")
    texts = [json.dumps(s.meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() for s in samples]
    json_bytes = max(_pad(len(text)) for text in texts)
    places: list[SamplePlace] = []
    with open(path, "wb") as raw:
        out = _DigestingFile(raw)
        for sample, text in zip(samples, texts, strict=True):
            array = npy_bytes(sample.array)
            start = out.size
            body = member(f"{sample.key}.json", text.ljust(json_bytes)) + member(
                f"{sample.key}.{array_name}.npy", array
            )
            out.write(body)
            places.append(
                SamplePlace(
                    sample_offset=start,
                    sample_bytes=len(body),
                    json_offset=start + BLOCK,
                    json_bytes=json_bytes,
                    array_offset=start + BLOCK + json_bytes + BLOCK,
                    array_bytes=len(array),
                    sample_xxh3=xxhash.xxh3_64_hexdigest(body),
                )
            )
        out.write(END_OF_TAR)
    return out.facts(), places


def pack(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A small tar in memory."""
    return b"".join(member(name, data) for name, data in members) + END_OF_TAR


def unpack(data: bytes) -> Iterator[tuple[str, bytes]]:
    """`(name, data)` of each regular member of a small tar. Raises tarfile.TarError when it is none."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            file = archive.extractfile(info)
            if info.isreg() and file is not None:
                yield info.name, file.read()
