"""Re-reads tars from their first byte to their last and compares them with the rows that describe them.

Tars are parsed by Python's own `tarfile` and arrays by numpy's own `load`, not by the code that wrote them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tokenize
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

import numpy as np

from stores.ledger import LedgerRow
from stores.manifest import ManifestRow
from stores.specs import Spec
from stores.storage import Storage
from stores.tar_stream import CHUNK, TarStream
from stores.text import listed, one_line

PLACES = ("sample_offset", "sample_bytes", "json_offset", "json_bytes", "array_offset", "array_bytes")
# What a sample's json repeats of its row, as far as the column has it.
JSON_NAMES: tuple[str, ...] = ("key", "ytid", "start_ms", "end_ms", "mids", "labels")
JSON_NAMES += ("has_audio", "has_video", "mute", "still", "short", "decoded_ms", "real_rows")
MAX_MEDIA_JSON = 1 << 20
TAR_BUFFER = 64 << 10  # tarfile copies what is left of its buffer at every read
# What numpy raises for damaged headers, beside ValueError: they are parsed as Python literals.
_NO_ARRAY = (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError)

Visit = Callable[[tarfile.TarInfo, IO[bytes]], Iterable["Problem"]]


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it should be: the object's name, what was expected, what was found."""

    file: str
    expected: str
    found: str
    key: str | None = None

    def __str__(self) -> str:
        where = self.file if self.key is None else f"{self.file}: {self.key}"
        return one_line(f"{where}: expected {self.expected}; found {self.found}")


def check_feature_tar(
    storage: Storage, name: str, summary: Mapping[str, Any], rows: Sequence[ManifestRow], spec: Spec
) -> Iterator[Problem]:
    """Compares a column shard's tar with its manifest: size, checksums, members, jsons, arrays, sums.

    Args:
        summary: the manifest's, with `tar` and `sums`.
        rows: its `ok` rows in order, each with its place.

    Raises:
        StorageError, FileNotFoundError: the tar cannot be read to its end.
    """
    content = _FeatureContent(name, rows, spec)
    spans = [(row.sample_offset or 0, (row.sample_offset or 0) + (row.sample_bytes or 0)) for row in rows]
    apart = all(0 <= start < end for start, end in spans) and all(a[1] <= b[0] for a, b in pairwise(spans))
    names = [f"{row.key}{suffix}" for row in rows for suffix in content.suffixes]
    stream = yield from _read_tar(storage, name, summary["tar"], names, spans if apart else (), content.visit)
    if apart and stream is not None:
        for row, found in zip(rows, stream.span_xxh3, strict=True):
            if found != row.sample_xxh3:
                says = "the tar's end before that of the sample" if found is None else found
                yield Problem(name, f"xxh3 {row.sample_xxh3} of its sample", says, row.key)
    yield from content.sums_problems(summary["sums"])


def check_media_tar(
    storage: Storage, name: str, facts: Mapping[str, Any], rows: Sequence[LedgerRow], read: bool
) -> Iterator[Problem]:
    """Compares a media tar with its ledger: size, checksum, members, and each clip's place and sha256.

    Args:
        facts: `size` and `sha256` as the ledger has them.
        rows: the rows that name this tar, in order.
        read: all of it; else it only has to be there in the right size.

    Raises:
        StorageError, FileNotFoundError: the tar cannot be read to its end.
    """
    jsons = {f"{row.key}.json": row for row in rows}
    media = {f"{row.key}.{row.extension}": row for row in rows}

    def visit(info: tarfile.TarInfo, file: IO[bytes]) -> Iterator[Problem]:
        if info.name in jsons:
            row = jsons[info.name]
            expected = {"key": row.key, "media_sha256": row.media_sha256}
            data = file.read() if info.size <= MAX_MEDIA_JSON else b""
            yield from _json_problems(name, row.key, data, expected)
        elif info.name in media:
            row = media[info.name]
            if (info.offset_data, info.size) != (row.offset, row.media_bytes):
                expected_place, place = _place(row.offset, row.media_bytes), _place(info.offset_data, info.size)
                yield Problem(name, f"media {expected_place}", place, row.key)
            digest = hashlib.sha256()
            while data := file.read(CHUNK):
                digest.update(data)
            if digest.hexdigest() != row.media_sha256:
                yield Problem(name, f"media of sha256 {row.media_sha256}", digest.hexdigest(), row.key)

    names = [member for row in rows for member in (f"{row.key}.json", f"{row.key}.{row.extension}")]
    if read:
        yield from _read_tar(storage, name, facts, names, (), visit)
    else:
        yield from _size_problems(name, facts, storage.size(name))


def _read_tar(
    storage: Storage,
    name: str,
    facts: Mapping[str, Any],
    names: Sequence[str],
    spans: Sequence[tuple[int, int]],
    visit: Visit,
) -> Generator[Problem, None, TarStream | None]:
    """Streams a tar past `visit` and checks it as a whole. Returns the stream, None where there is no tar."""
    size = storage.size(name)
    yield from _size_problems(name, facts, size)
    if size is None:
        return None
    stream = TarStream(storage, name, size, spans)
    found: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=TAR_BUFFER) as archive:  # type: ignore[call-overload]
            for info in archive:
                found.append(info.name)
                if info.isreg() and info.sparse is None:  # type: ignore[attr-defined]
                    yield from visit(info, archive.extractfile(info))
                else:
                    yield Problem(name, "plain files only", f"{info.name!r} of tar type {info.type!r}")
    except tarfile.TarError as error:
        yield Problem(name, "a whole tar", f"{error}, after {len(found)} members")
    stream.drain()
    if stream.sha256 != facts["sha256"]:
        yield Problem(name, f"sha256 {facts['sha256']}", stream.sha256)
    yield from _name_problems(name, names, found)
    return stream


def _size_problems(name: str, facts: Mapping[str, Any], size: int | None) -> Iterator[Problem]:
    if size != facts["size"]:
        yield Problem(name, f"a tar of {facts['size']} bytes", "no such object" if size is None else f"{size} bytes")


def _name_problems(name: str, expected: Sequence[str], found: Sequence[str]) -> Iterator[Problem]:
    wanted, there = Counter(expected), Counter(found)
    missing, more = list((wanted - there).elements()), list((there - wanted).elements())
    if missing:
        yield Problem(name, f"{len(expected)} members", f"{len(found)}, without {listed(missing)}")
    if more:
        yield Problem(name, "no other members than those of its rows", listed(more))
    if not missing and not more and list(expected) != list(found):
        at = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1])
        yield Problem(name, f"members in the order of the rows, {expected[at]} at {at}", found[at])


class _FeatureContent:
    """Checks the members of a feature tar as they pass, and adds up what the manifest has sums of."""

    def __init__(self, name: str, rows: Sequence[ManifestRow], spec: Spec) -> None:
        self.name, self.spec = name, spec
        self.suffixes = (".json", f".{spec.array}.npy")
        self.members = {f"{row.key}{suffix}": (row, suffix) for row in rows for suffix in self.suffixes}
        self.arrays_left = len(rows)
        self.count, self.total, self.squares = 0, np.zeros(spec.shape[-1]), np.zeros(spec.shape[-1])

    def visit(self, info: tarfile.TarInfo, file: IO[bytes]) -> Iterator[Problem]:
        """Checks one member."""
        if info.name not in self.members:
            return
        row, suffix = self.members[info.name]
        is_json = suffix == ".json"
        expected = (row.json_offset, row.json_bytes) if is_json else (row.array_offset, row.array_bytes)
        if (info.offset_data, info.size) != expected or (is_json and info.offset != row.sample_offset):
            yield Problem(self.name, f"{suffix[1:]} {_place(*expected)}", _place(info.offset_data, info.size), row.key)
        elif is_json:
            values = {name: getattr(row, name) for name in JSON_NAMES if getattr(row, name) is not None}
            yield from _json_problems(self.name, row.key, file.read(), values)
        else:
            yield from self._array_problems(row, file.read())

    def _array_problems(self, row: ManifestRow, data: bytes) -> Iterator[Problem]:
        expected = f"{self.spec.dtype} {list(self.spec.shape)}"
        try:
            shape, dtype = _npy_header(data)
            if shape != self.spec.shape or dtype != np.dtype(self.spec.dtype):
                yield Problem(self.name, f"an array of {expected}", f"{dtype} {list(shape)}", row.key)
                return
            array = np.load(io.BytesIO(data), allow_pickle=False)
        except _NO_ARRAY as error:
            yield Problem(self.name, f"an array of {expected}", f"no plain .npy file ({error})", row.key)
            return
        if not np.isfinite(array).all():
            yield Problem(self.name, "finite values", f"{int((~np.isfinite(array)).sum())} others", row.key)
            return
        real = array[: row.real_rows].astype(np.float64)
        self.count += len(real)
        self.total += real.sum(axis=0)
        self.squares += np.square(real).sum(axis=0)
        self.arrays_left -= 1

    def sums_problems(self, sums: Mapping[str, Any]) -> Iterator[Problem]:
        """Compares the sums, if every array could be added up."""
        if self.arrays_left:
            return
        near = all(
            np.shape(sums[name]) == values.shape and np.allclose(sums[name], values, rtol=1e-6, atol=1e-6)
            for name, values in (("total", self.total), ("squares", self.squares))
        )
        if sums["count"] != self.count or not near:
            expected = f"arrays that add up to the manifest's sums over {sums['count']} rows"
            yield Problem(self.name, expected, f"other sums over {self.count} rows")


def _npy_header(data: bytes) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype by the header alone: a damaged one could ask for any amount of memory. Raises `_NO_ARRAY`."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


def _json_problems(name: str, key: str, data: bytes, expected: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        yield Problem(name, "a json", f"none ({error})", key)
        return
    for field, value in expected.items():
        has = found.get(field) if isinstance(found, dict) else None
        if has != (list(value) if isinstance(value, tuple) else value):
            yield Problem(name, f"{field} {value!r} in its json", repr(has)[:200], key)


def _place(offset: int | None, size: int | None) -> str:
    return f"at {offset}, {size} bytes"
