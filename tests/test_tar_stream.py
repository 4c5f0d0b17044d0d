"""Reading an object once, in bounded pieces, with a checksum of the whole and of each span."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import xxhash

from stores import tar_stream
from stores.shards import pack
from stores.storage import Storage, StorageError
from stores.tar_stream import TarStream

DATA = np.random.default_rng(0).bytes(10_000)
SPANS = [(0, 700), (700, 1400), (2000, 2001), (2500, 9_999), (9_999, 10_000)]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(str(tmp_path))
    storage.publish("object", DATA)
    return storage


@pytest.mark.parametrize("chunk", [1, 7, 512, 700, 4096, 10_000, 1 << 20])
def test_checksums_do_not_depend_on_how_it_is_read(
    storage: Storage, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_stream, "CHUNK", chunk)
    stream = TarStream(storage, "object", len(DATA), SPANS)
    head = stream.read(333)
    assert 0 < len(head) <= min(chunk, 333)
    stream.drain()
    assert stream.sha256 == hashlib.sha256(DATA).hexdigest()
    assert stream.span_xxh3 == [xxhash.xxh3_64_hexdigest(DATA[start:end]) for start, end in SPANS]
    assert stream.read(1) == b""


def test_no_more_than_a_chunk_is_asked_for_at_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read_range = storage.read_range

    def noting(name: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return read_range(name, start, end)

    monkeypatch.setattr(storage, "read_range", noting)
    monkeypatch.setattr(tar_stream, "CHUNK", 1024)
    TarStream(storage, "object", len(DATA)).drain()
    assert max(asked) == 1024
    assert sum(asked) == len(DATA)


def test_spans_beyond_the_end_have_no_checksum(storage: Storage) -> None:
    stream = TarStream(storage, "object", len(DATA), [(0, 10), (9_000, 10_001), (20_000, 20_010)])
    stream.drain()
    assert stream.span_xxh3 == [xxhash.xxh3_64_hexdigest(DATA[:10]), None, None]


def test_an_object_that_shrank_is_an_error(storage: Storage) -> None:
    with pytest.raises(StorageError, match="object"):
        TarStream(storage, "object", len(DATA) + 1).drain()


def test_tarfile_reads_from_it(storage: Storage) -> None:
    storage.publish("tar", pack([("a.json", b"{}"), ("b.npy", DATA)]))
    stream = TarStream(storage, "tar", storage.size("tar") or 0)
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        found = {info.name: archive.extractfile(info).read() for info in archive}
    assert found == {"a.json": b"{}", "b.npy": DATA}
