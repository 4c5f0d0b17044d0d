"""The cache of tars: bounded always, shared between processes, nothing in use removed, nothing damaged kept."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_factory import SMALL_LOGMEL

from stores.cache import TarCache
from stores.shard_index import ShardTar
from stores.shards import TarFacts, write_media_tar
from stores.storage import Storage

SIZE = 3072  # of every tar here: a header, 512 bytes, the end mark


def stored(storage: Storage, count: int) -> list[ShardTar]:
    """Tars of equal size and different content in a store."""
    return [describe(name, facts) for name, facts in (put(storage, number) for number in range(count))]


def put(storage: Storage, number: int) -> tuple[str, TarFacts]:
    with storage.scratch_file() as scratch:
        facts, _ = write_media_tar(scratch, [("a", bytes([number]) * 1500)])
        storage.publish_file(scratch, f"tars/{number}.tar")
    return f"tars/{number}.tar", facts


def describe(name: str, facts: TarFacts) -> ShardTar:
    places = np.array([[0, 2048, 1024, 1024]])
    return ShardTar(name, facts.size, facts.sha256, SMALL_LOGMEL, 1, places, np.zeros(1, np.uint64))


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def content(cache: TarCache, storage: Storage, tar: ShardTar) -> bytes:
    lease = cache.lease(storage, tar)
    try:
        return lease.file.read()
    finally:
        lease.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_a_tar_is_fetched_once_and_then_read_from_disk(storage: Storage, tmp_path: Path) -> None:
    (tar,) = stored(storage, 1)
    data = storage.read(tar.name)
    assert len(data) == SIZE
    cache = TarCache(tmp_path / "cache", SIZE)
    assert content(cache, storage, tar) == data
    storage.remove(tar.name)
    assert content(cache, storage, tar) == data


def test_the_longest_unused_makes_room(storage: Storage, tmp_path: Path) -> None:
    tars = stored(storage, 4)
    cache = TarCache(tmp_path / "cache", 3 * SIZE)
    for at in (0, 1, 2, 0, 3):  # 1 is the longest unused when 3 comes
        content(cache, storage, tars[at])
        assert held(cache.folder) <= cache.limit_bytes
    there = {path.stem for path in cache.folder.glob("*.tar")}
    assert there == {tars[at].sha256 for at in (0, 2, 3)}


def test_what_is_in_use_stays_and_another_waits_for_room(storage: Storage, tmp_path: Path) -> None:
    first, second = stored(storage, 2)
    cache = TarCache(tmp_path / "cache", SIZE + 10)
    lease = cache.lease(storage, first)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(content, cache, storage, second)
        time.sleep(0.2)
        assert not waiting.done()
        assert (cache.folder / f"{first.sha256}.tar").exists()
        lease.close()
        assert waiting.result(timeout=20) == storage.read(second.name)
    assert held(cache.folder) <= cache.limit_bytes


def test_many_threads_never_exceed_the_limit(storage: Storage, tmp_path: Path) -> None:
    tars = stored(storage, 8)
    expected = {tar.name: storage.read(tar.name) for tar in tars}
    cache = TarCache(tmp_path / "cache", 3 * SIZE)
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], cache.held_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        wanted = [tars[number * 5 % 8] for number in range(80)]
        found = list(pool.map(lambda tar: content(cache, storage, tar) == expected[tar.name], wanted))
    stop.set()
    watcher.join()
    assert all(found)
    assert 0 < most[0] <= cache.limit_bytes


def _read_all(folder: str, uri: str, tars: list[ShardTar], seed: int) -> bool:
    cache, storage = TarCache(folder, 3 * SIZE), Storage(uri)
    order = np.random.default_rng(seed).integers(0, len(tars), 60)
    return all(content(cache, storage, tars[i]) == storage.read(tars[i].name) for i in order)


def test_processes_share_a_folder(storage: Storage, tmp_path: Path) -> None:
    tars = stored(storage, 6)
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        jobs = [(str(tmp_path / "cache"), storage.uri, tars, seed) for seed in range(2)]
        assert pool.starmap(_read_all, jobs) == [True, True]
    assert held(tmp_path / "cache") <= 3 * SIZE


def test_what_a_dead_process_left_half_done_is_cleared_away(storage: Storage, tmp_path: Path) -> None:
    first, second = stored(storage, 2)
    cache = TarCache(tmp_path / "cache", 2 * SIZE)
    (cache.folder / f"{first.sha256}.part").write_bytes(bytes(SIZE))
    (cache.folder / f"{'0' * 64}.part").write_bytes(bytes(SIZE))
    assert content(cache, storage, second) == storage.read(second.name)
    assert content(cache, storage, first) == storage.read(first.name)
    assert list(cache.folder.glob("*.part")) == []


def test_a_copy_of_another_size_is_fetched_again(storage: Storage, tmp_path: Path) -> None:
    (tar,) = stored(storage, 1)
    cache = TarCache(tmp_path / "cache", 4 * SIZE)
    (cache.folder / f"{tar.sha256}.tar").write_bytes(b"half")
    assert content(cache, storage, tar) == storage.read(tar.name)


def test_what_the_store_holds_wrongly_is_said_and_not_kept(storage: Storage, tmp_path: Path) -> None:
    tars = stored(storage, 3)
    storage.publish(tars[0].name, storage.read(tars[1].name))
    storage.publish(tars[1].name, b"short")
    storage.remove(tars[2].name)
    cache = TarCache(tmp_path / "cache", 4 * SIZE)
    with pytest.raises(ValueError, match="expected sha256"):
        cache.lease(storage, tars[0])
    with pytest.raises(ValueError, match="expected a tar of 3072 bytes, found 5"):
        cache.lease(storage, tars[1])
    with pytest.raises(FileNotFoundError):
        cache.lease(storage, tars[2])
    assert held(cache.folder) == 0


def test_limits_that_cannot_be_are_refused(storage: Storage, tmp_path: Path) -> None:
    (tar,) = stored(storage, 1)
    with pytest.raises(ValueError, match="at least one byte"):
        TarCache(tmp_path / "cache", 0)
    with pytest.raises(ValueError, match="holds the largest shard, tars/0.tar of 3.1 kB, got a limit of 3.1 kB"):
        TarCache(tmp_path / "cache", SIZE - 1).lease(storage, tar)


def test_the_default_is_ours_alone_and_leaves_half_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = TarCache.default()
    assert cache.folder.parent == tmp_path
    assert cache.folder.stat().st_mode & 0o077 == 0
    disk = os.statvfs(tmp_path)
    assert 0 < cache.limit_bytes <= max(1, disk.f_blocks * disk.f_frsize // 2)
