"""Tars as arrays: equal to what numpy loads, verified once, and never anything that does not fit."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from store_factory import SMALL_LOGMEL, SPLIT, make_wide_store

from stores import shard_tars
from stores.cache import TarCache
from stores.shard_index import ShardError, ShardTar
from stores.shard_tars import TarFiles
from stores.shards import member, npy_bytes
from stores.snapshot import Snapshot
from stores.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def uneven(storage: Storage, arrays: list[np.ndarray], name: str = "t.tar") -> ShardTar:
    """A tar whose samples differ in size, as another writer might make it."""
    data, places, digests = b"", [], []
    for number, array in enumerate(arrays):
        npy = npy_bytes(array)
        sample = member(f"{number}.json", b"x" * (700 * number + 1)) + member(f"{number}.logmel.npy", npy)
        at = len(data) + len(sample) - -(-len(npy) // 512) * 512
        places.append([len(data), len(sample), at, len(npy)])
        digests.append(xxhash.xxh3_64_intdigest(sample))
        data += sample
    data += bytes(1024)
    storage.publish(name, data)
    return ShardTar(name, len(data), "", SMALL_LOGMEL, len(arrays), np.array(places), np.array(digests, np.uint64))


def test_strided_rows_are_what_numpy_loads(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 20, 20, columns=[SMALL_LOGMEL])
    (tar,) = Snapshot.open(store, SPLIT, "logmel").columns[0].tars
    arrays = TarFiles(store.storage, None, True).acquire(tar)
    with tarfile.open(store.storage.path(tar.name)) as archive:
        files = [archive.extractfile(info).read() for info in archive if info.name.endswith(".npy")]  # type: ignore[union-attr]
    expected = np.stack([np.load(io.BytesIO(data)) for data in files])
    assert expected.any()
    assert np.array_equal(arrays.rows, expected)
    out = np.empty((5, 4, 3), np.float16)
    arrays.copy(7, out)
    assert np.array_equal(out, expected[7:12])


def test_a_tar_without_a_stride_is_read_by_its_offsets(storage: Storage) -> None:
    made = [np.full((4, 3), number, np.float16) for number in range(5)]
    tar = uneven(storage, made)
    assert not tar.uniform
    out = np.empty((3, 4, 3), np.float16)
    TarFiles(storage, None, True).acquire(tar).copy(2, out)
    assert np.array_equal(out, np.stack(made[2:]))


def test_damage_is_named(storage: Storage) -> None:
    made = [np.full((4, 3), number, np.float16) for number in range(3)]
    cases = {
        "expected xxh3 .* of sample 1": lambda data: data.replace(b"1.json", b"2.json"),
        "expected a tar's end of zeros": lambda data: data[:-1] + b"!",
        "expected a tar of [0-9]+ bytes, found": lambda data: data[:-512],
    }
    for words, damage in cases.items():
        tar = uneven(storage, made)
        storage.publish(tar.name, damage(storage.read(tar.name)))
        with pytest.raises(ShardError, match=words):
            TarFiles(storage, None, True).acquire(tar)
    storage.remove("t.tar")
    with pytest.raises(ShardError, match="no such object"):
        TarFiles(storage, None, True).acquire(tar)


def test_arrays_of_another_kind_are_refused_also_without_verifying(storage: Storage) -> None:
    kinds = [np.zeros((3, 4), np.float16), np.zeros((4, 3), np.int16), np.asfortranarray(np.zeros((4, 3), np.float16))]
    for array in kinds[:2]:
        with pytest.raises(ShardError, match=r"expected float16 \[4, 3\] in C order"):
            TarFiles(storage, None, False).acquire(uneven(storage, [array] * 2))
    tar = uneven(storage, kinds[2:] * 2)
    data = storage.read(tar.name).replace(b"'fortran_order': False", b"'fortran_order': True ")
    storage.publish(tar.name, data)
    with pytest.raises(ShardError, match="in C order"):
        TarFiles(storage, None, False).acquire(tar)
    storage.publish(tar.name, storage.read(tar.name).replace(b"NUMPY", b"NUMPI"))
    with pytest.raises(ShardError, match="expected a .npy file at"):
        TarFiles(storage, None, False).acquire(tar)


def test_a_uniform_tar_with_one_odd_header_is_refused(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 6, 6, columns=[SMALL_LOGMEL])
    (tar,) = Snapshot.open(store, SPLIT, "logmel").columns[0].tars
    data = bytearray(store.storage.read(tar.name))
    at = int(tar.all_places()[3, 2])
    data[at : at + 128] = data[at : at + 128].replace(b"<f2", b"<i2")
    store.storage.publish(tar.name, bytes(data))
    with pytest.raises(ShardError, match="headers that are all alike"):
        TarFiles(store.storage, None, False).acquire(tar)


def test_each_file_is_verified_once_a_process_and_again_when_it_changed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = uneven(storage, [np.zeros((4, 3), np.float16)] * 2, "once.tar")
    checked: list[str] = []
    check = shard_tars._check_content
    monkeypatch.setattr(shard_tars, "_check_content", lambda data, tar: (checked.append(tar.name), check(data, tar)))
    for _ in range(3):
        TarFiles(storage, None, True).acquire(tar)
    assert checked == ["once.tar"]
    TarFiles(storage, None, False).acquire(replace(tar, xxh3=tar.xxh3 + np.uint64(1)))
    assert checked == ["once.tar"]
    with pytest.raises(ShardError, match="xxh3"):  # the same file by another manifest
        TarFiles(storage, None, True).acquire(replace(tar, xxh3=tar.xxh3 + np.uint64(1)))
    storage.publish(tar.name, storage.read(tar.name))
    TarFiles(storage, None, True).acquire(tar)
    assert len(checked) == 3


def test_more_tars_than_may_be_open_at_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (128, 128))
    tars = [uneven(storage, [np.full((4, 3), number, np.float16)] * 2, f"{number}.tar") for number in range(40)]
    files = TarFiles(storage, None, True)
    before = len(os.listdir("/proc/self/fd"))
    out = np.empty((1, 4, 3), np.float16)
    for number in [*range(40), 0, 39]:
        arrays = files.acquire(tars[number])
        arrays.copy(0, out)
        files.release(arrays)
        assert out[0, 0, 0] == number
    assert len(os.listdir("/proc/self/fd")) - before <= 17


def test_a_damaged_copy_in_the_cache_is_fetched_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_wide_store("memory://damaged-copy", 6, 6, columns=[SMALL_LOGMEL])
    (tar,) = Snapshot.open(store, SPLIT, "logmel").columns[0].tars
    cache = TarCache(tmp_path, 10**6)
    cache.lease(store.storage, tar).close()
    copy = tmp_path / f"{tar.sha256}.tar"
    data = bytearray(copy.read_bytes())
    data[600] ^= 1
    copy.write_bytes(data)
    files = TarFiles(store.storage, cache, True)
    arrays = files.acquire(tar)
    assert "the cached copy is damaged" in caplog.text
    assert copy.read_bytes() == store.storage.read(tar.name)
    files.release(arrays)
    assert arrays.lease is not None and arrays.lease.file.closed
    assert np.asarray(arrays.rows).shape == (6, 4, 3), "what is mapped stays readable"
