"""Reads a stored object from its first byte to its last in large ranges, taking checksums of what passes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import xxhash

from stores.storage import Storage

CHUNK = 4 << 20  # bytes of one range read; a few of them are in memory at once


class TarStream:
    """A file object for `tarfile.open(fileobj=…, mode="r|")`.

    Args:
        size: of the object in bytes; no more is read.
        spans: byte ranges [start, end) in ascending order, none overlapping; each gets an xxh3-64 of its own.

    `sha256` and `span_xxh3` are of the whole object once `drain` has returned.
    """

    def __init__(self, storage: Storage, name: str, size: int, spans: Sequence[tuple[int, int]] = ()) -> None:
        self._storage, self._name, self._size = storage, name, size
        self._fetched = 0
        self._chunk = memoryview(b"")
        self._digest = hashlib.sha256()
        self._spans = _SpanDigests(spans)

    @property
    def sha256(self) -> str:
        """Hex digest of what was fetched so far."""
        return self._digest.hexdigest()

    @property
    def span_xxh3(self) -> list[str | None]:
        """By span, the hex digest of its bytes; None where the object ends before the span does."""
        return self._spans.digests

    def read(self, count: int) -> bytes:
        """Up to `count` bytes, none at the end.

        Raises:
            StorageError: the object holds fewer than `size` bytes, or the backend failed.
        """
        if not self._chunk:
            self._fetch()
        data, self._chunk = self._chunk[:count], self._chunk[count:]
        return bytes(data)

    def drain(self) -> None:
        """Reads what is left."""
        while self._fetched < self._size:
            self._fetch()
        self._chunk = memoryview(b"")

    def _fetch(self) -> None:
        end = min(self._fetched + CHUNK, self._size)
        if end > self._fetched:
            data = self._storage.read_range(self._name, self._fetched, end)
            self._digest.update(data)
            self._spans.feed(self._fetched, data)
            self._fetched, self._chunk = end, memoryview(data)


class _SpanDigests:
    """xxh3-64 of each of several byte ranges of a stream."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._spans = spans
        self._digest = xxhash.xxh3_64()
        self.digests: list[str | None] = [None] * len(spans)
        self._next = 0

    def feed(self, position: int, data: bytes) -> None:
        """Takes the bytes that lie at `position`."""
        view, end_of_data = memoryview(data), position + len(data)
        while self._next < len(self._spans):
            start, end = self._spans[self._next]
            if start >= end_of_data:
                return
            self._digest.update(view[max(start - position, 0) : end - position])
            if end > end_of_data:
                return
            self.digests[self._next] = self._digest.hexdigest()
            self._digest.reset()
            self._next += 1
