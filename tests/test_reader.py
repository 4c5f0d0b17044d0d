"""The reader: one global sequence whatever reads it, resumed anywhere, and nothing of a damaged shard."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_bucket import s3_bucket
from store_factory import SMALL_LOGMEL, SMALL_VIDEO, SPLIT, commit_wide_shard, make_wide_store, wide_row

from stores.batch import Batch
from stores.cache import TarCache
from stores.layout import Store
from stores.position import Position
from stores.reader import Reader
from stores.shard_index import ShardError
from stores.snapshot import Snapshot
from stores.survey import live_tars

COLUMNS = ["logmel", "embedding"]
CLIPS, SHARD = 60, 8
ORDERS = ["sequential", "uniform", "windowed-3", "balanced"]
WORLDS = [1, 2, 3, 4, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 clips in shards of 8; two have no embedding."""
    folder = tmp_path_factory.mktemp("wide")
    make_wide_store(str(folder), CLIPS, SHARD, lacking=[("embedding", 3), ("embedding", 40)])
    return folder


@pytest.fixture(scope="module")
def snapshot(folder: Path) -> Snapshot:
    return Snapshot.open(str(folder), SPLIT, COLUMNS)


def sequence(snapshot: Snapshot, world: int, batches: int | None = None, **options: Any) -> list[Batch]:
    """The batches of all ranks by number, as many as asked for; of a finite reader all, those that pad too."""
    found: list[Batch] = []
    for rank in range(world):
        reader = Reader(snapshot, rank=rank, world_size=world, **options)
        mine = iter(reader) if batches is None else itertools.islice(reader, -(-batches // world))
        found.extend(mine)
    return sorted(found, key=lambda batch: batch.number)[:batches]


def read(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def plain(folder: Path, column: str, array: str) -> dict[str, dict[str, Any]]:
    """What plain WebDataset finds: the independent reader."""
    store = Store.open(str(folder))
    urls = [store.storage.url(name) for name in live_tars(store, SPLIT, column)]
    samples = wds.WebDataset(urls, shardshuffle=False).decode()
    return {s["__key__"]: {"array": s[f"{array}.npy"], "labels": s["json"]["labels"]} for s in samples}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_webdataset_reads(folder: Path, snapshot: Snapshot, order: str, workers: int) -> None:
    logmel = plain(folder, SMALL_LOGMEL.column, "logmel")
    video = plain(folder, SMALL_VIDEO.column, "video")
    count = 0
    for batch in Reader(snapshot, order=order, batch_size=7, epochs=2, workers=workers):
        hot = batch.multi_hot(8)
        for at, key in enumerate(batch.keys):
            assert np.array_equal(batch.arrays["logmel"][at], logmel[key]["array"])
            assert np.array_equal(batch.arrays["embedding"][at], video[key]["array"])
            assert np.flatnonzero(hot[at]).tolist() == sorted(logmel[key]["labels"])
            assert snapshot.keys[batch.index[at]].decode() == key
            assert batch.flags["has_audio"][at] == (int(key[4:11]) % 11 != 0)
        count += len(batch)
    assert count == 2 * len(snapshot) == 116


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(ORDERS),
    world=st.sampled_from(WORLDS),
    workers=st.integers(0, 3),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_the_sequence_is_the_same_for_any_world_and_workers(
    snapshot: Snapshot, order: str, world: int, workers: int, batch_size: int, seed: int
) -> None:
    options = {"order": order, "batch_size": batch_size, "seed": seed}
    alone = sequence(snapshot, 1, 14, **options)
    together = sequence(snapshot, world, 14, workers=workers, **options)
    assert read(together) == read(alone)
    assert [batch.number for batch in together] == list(range(14))
    assert [batch.position for batch in together] == [batch.position for batch in alone]


@settings(max_examples=40, deadline=None)
@given(
    order=st.sampled_from(ORDERS[:3]),
    world=st.sampled_from(WORLDS),
    batch_size=st.integers(1, 70),
    epochs=st.integers(1, 2),
    drop_last=st.booleans(),
)
def test_ranks_together_read_the_split_once_and_get_equally_many_batches(
    snapshot: Snapshot, order: str, world: int, batch_size: int, epochs: int, drop_last: bool
) -> None:
    options = {"order": order, "batch_size": batch_size, "epochs": epochs, "drop_last": drop_last}
    ranks = [list(Reader(snapshot, rank=rank, world_size=world, **options)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    assert Reader(snapshot, **options, world_size=world).rounds == len(ranks[0])
    batches = sorted(itertools.chain(*ranks), key=lambda batch: batch.number)
    total = epochs * len(snapshot)
    expected = total - total % batch_size if drop_last else total
    counts = np.bincount(np.concatenate([np.empty(0, np.int64), *(b.index for b in batches)]), minlength=len(snapshot))
    assert counts.sum() == expected
    if not drop_last:
        assert set(counts.tolist()) == {epochs}
    real = [batch for batch in batches if not batch.padding]
    assert all(len(batch) == 0 and batch.missing == 0 for batch in batches if batch.padding)
    assert [batch.short for batch in real] == [len(batch) < batch_size for batch in real]
    assert len(batches) - len(real) < world


@pytest.mark.parametrize("order", ORDERS)
def test_a_resume_from_every_offset_gives_the_same_rest(snapshot: Snapshot, order: str) -> None:
    """On another world size, with other threads; offsets that no batch begins at included."""
    reader = Reader(snapshot, order=order, batch_size=1, seed=5, epochs=2)
    whole = [batch.keys[0] for batch in reader]
    for offset, (before, world) in enumerate(zip(range(len(snapshot)), itertools.cycle(WORLDS), strict=False)):
        start = Position.from_dict(reader.position(before).to_dict())
        assert (start.epoch, start.offset) == (0, offset)
        options = {"order": order, "batch_size": 9, "seed": 5, "start": start, "epochs": 2, "workers": offset % 3}
        assert read(sequence(snapshot, world, **options)) == whole[offset:]


def test_each_batch_says_where_it_and_the_next_begin(snapshot: Snapshot) -> None:
    options = {"order": "uniform", "batch_size": 10, "seed": 1}
    batches = sequence(snapshot, 1, 15, **options)
    for batch, following in itertools.pairwise(batches):
        assert batch.after == following.position
        resumed = next(iter(Reader(snapshot, start=batch.after, **options)))
        assert (resumed.keys, resumed.number, resumed.position) == (
            following.keys,
            following.number,
            following.position,
        )


def test_a_rank_keeps_its_batches_over_a_resume(snapshot: Snapshot) -> None:
    options = {"order": "uniform", "batch_size": 4, "rank": 1, "world_size": 3}
    before = list(itertools.islice(Reader(snapshot, **options), 6))
    reader = Reader(snapshot, **options)
    after = list(itertools.islice(Reader(snapshot, start=reader.position(9), **options), 3))
    assert [batch.number for batch in before] == [1, 4, 7, 10, 13, 16]
    assert [batch.keys for batch in after] == [batch.keys for batch in before[3:]]


def test_endless_batches_are_full_and_run_over_the_ends_of_epochs(snapshot: Snapshot) -> None:
    batches = sequence(snapshot, 1, 12, order="uniform", batch_size=13)
    assert {len(batch) for batch in batches} == {13}
    first, second = np.concatenate([batch.index for batch in batches])[: 2 * len(snapshot)].reshape(2, -1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(len(snapshot)))
    assert first.tolist() != second.tolist()


def test_a_position_of_another_snapshot_or_order_is_refused(folder: Path, snapshot: Snapshot) -> None:
    other = Snapshot.open(str(folder), SPLIT, "logmel")
    position = Reader(snapshot, batch_size=4).position(3)
    with pytest.raises(ValueError, match="snapshot_digest .* go on with the manifests"):
        Reader(other, batch_size=4, start=position)
    with pytest.raises(ValueError, match="order 'uniform', not 'balanced'"):
        Reader(snapshot, batch_size=4, order="balanced", start=position)


def test_arguments_out_of_range_are_refused(snapshot: Snapshot) -> None:
    for wrong in ({"batch_size": 0}, {"workers": -1}, {"epochs": -1}, {"rank": 2, "world_size": 2}, {"rank": -1}):
        with pytest.raises(ValueError, match="expected"):
            Reader(snapshot, **{"batch_size": 4, **wrong})
    with pytest.raises(ValueError, match="a batch number from 0 on"):
        Reader(snapshot, batch_size=4).position(-1)


def test_kept_batches_are_not_overwritten(snapshot: Snapshot) -> None:
    options = {"order": "uniform", "batch_size": 6, "epochs": 2}
    for workers in (0, 2):
        kept = list(Reader(snapshot, workers=workers, **options))
        dropped = [batch.arrays["logmel"].copy() for batch in Reader(snapshot, workers=workers, **options)]
        assert all(np.array_equal(a.arrays["logmel"], b) for a, b in zip(kept, dropped, strict=True))
        assert len(kept) > 12


def test_a_snapshot_outlives_an_ingest_that_goes_on(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 20, SHARD)
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    options = {"order": "uniform", "batch_size": 5, "epochs": 1}
    before = read(list(Reader(snapshot, **options)))
    rows = [wide_row(100 + number, number, SHARD) for number in range(SHARD)]
    commit_wide_shard(store, SMALL_LOGMEL, SPLIT, 0, rows)
    commit_wide_shard(store, SMALL_VIDEO, SPLIT, 0, rows)
    assert read(list(Reader(snapshot, **options))) == before
    newer = Snapshot.open(store, SPLIT, COLUMNS)
    assert newer.digest != snapshot.digest
    assert read(list(Reader(newer, **options))) != before


# ---------------------------------------------------------------- damage


def flip(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(bytes(data))


def truncate(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:-2000])


def swap(tar: Path) -> None:
    """Another shard's content of the same length, as if the manifest were that of another tar."""
    other = next(path for path in sorted(tar.parent.glob("*.tar")) if path.name[:5] not in (tar.name[:5],))
    tar.write_bytes(other.read_bytes())


DAMAGE = {
    "flip": (flip, "xxh3"),
    "truncate": (truncate, "expected a tar of"),
    "missing": (Path.unlink, "no such object"),
}
DAMAGE["another tar"] = (swap, "xxh3")


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("column", [SMALL_LOGMEL, SMALL_VIDEO])
def test_a_damaged_shard_is_quarantined_or_one_clear_error(
    tmp_path: Path, kind: str, column: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_wide_store(str(tmp_path), 48, SHARD)
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    damage, words = DAMAGE[kind]
    tar = tmp_path / live_tars(store, SPLIT, column.column)[2]
    damage(tar)
    lost = {f"wide{number:07d}_0" for number in range(16, 24)}
    options = {"order": "uniform", "batch_size": 5, "seed": 3}
    for world, workers in ((1, 0), (3, 2)):
        caplog.clear()
        batches = sequence(snapshot, world, epochs=2, workers=workers, **options)
        assert set(read(batches)) == {key.decode() for key in snapshot.keys} - lost
        assert len(read(batches)) == 80
        assert sum(batch.missing for batch in batches) == 16
        assert all(len(b) + b.missing == 5 for b in batches if not b.short and not b.padding)
        warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert len(warned) == world, "once by each reader"
        assert str(tar) in warned[0] and words in warned[0] and "the 8 samples" in warned[0]
    reader = Reader(snapshot, epochs=1, **options)
    assert len(list(reader)) == 10
    assert list(reader.quarantined) == [str(tar)] and words in reader.quarantined[str(tar)]
    with pytest.raises(ShardError) as caught:
        list(Reader(snapshot, epochs=1, strict=True, **options))
    message = str(caught.value)
    assert str(tar) in message and words in message and f"python -m stores verify {store.storage.uri}" in message


def test_verification_can_be_left_out_and_then_sees_sizes_only(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 16, SHARD)
    snapshot = Snapshot.open(store, SPLIT, "logmel")
    flip(tmp_path / live_tars(store, SPLIT, SMALL_LOGMEL.column)[0])
    options: dict[str, Any] = {"order": "sequential", "batch_size": 8, "epochs": 1}
    assert [len(batch) for batch in Reader(snapshot, verify=False, **options)] == [8, 8]
    assert [len(batch) for batch in Reader(snapshot, **options)] == [0, 8]


def test_a_damaged_manifest_is_quarantined_too(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 16, SHARD)
    shutil.copy(tmp_path / store.manifest_name(SMALL_LOGMEL.column, SPLIT, 0), tmp_path / "spare")
    store.storage.publish(store.manifest_name(SMALL_LOGMEL.column, SPLIT, 1), (tmp_path / "spare").read_bytes())
    snapshot = Snapshot.open(store, SPLIT, "logmel")
    reader = Reader(snapshot, batch_size=4, epochs=1)
    assert len(read(list(reader))) == 8
    assert list(reader.quarantined) == [store.storage.url(store.manifest_name(SMALL_LOGMEL.column, SPLIT, 1))]
    with pytest.raises(ShardError, match="another one's"):
        Reader(snapshot, batch_size=4, strict=True)


# ---------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """How to reach an S3 server with an empty bucket."""
    with s3_bucket() as options:
        yield options


@pytest.fixture(scope="module")
def bucket(s3: dict[str, Any]) -> Store:
    """The same store on S3."""
    return make_wide_store("s3://bucket/wide", CLIPS, SHARD, lacking=[("embedding", 3), ("embedding", 40)], **s3)


@pytest.mark.parametrize("order", ["windowed-2", "balanced"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_on_s3_gives_the_same_batches_through_a_cache_smaller_than_it(
    bucket: Store, snapshot: Snapshot, tmp_path: Path, order: str, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Snapshot.open(bucket, SPLIT, COLUMNS)
    assert remote.digest == snapshot.digest
    sizes = [tar.size for column in remote.columns for tar in column.tars]
    cache = TarCache(tmp_path, 5 * max(sizes))
    assert cache.limit_bytes < sum(sizes) / 2
    options: dict[str, Any] = {"order": order, "batch_size": 9, "epochs": 1, "workers": workers}
    local = iter(Reader(snapshot, **options))
    for batch in Reader(remote, cache=cache, **options):
        expected = next(local)
        assert batch.keys == expected.keys
        assert all(np.array_equal(batch.arrays[name], expected.arrays[name]) for name in ("logmel", "embedding"))
        assert batch.position == expected.position
        assert 0 < cache.held_bytes() <= cache.limit_bytes
    assert next(local, None) is None
    warnings = [record for record in caplog.records if "windowed order is meant for this" in record.getMessage()]
    assert len(warnings) == (order == "balanced")


def test_windows_are_fetched_once_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of three windows: none is thrown out between being fetched ahead and being read."""
    store = make_wide_store("memory://windows", 8 * 24, SHARD)
    remote = Snapshot.open(store, SPLIT, COLUMNS)
    tars = [tar for column in remote.columns for tar in column.tars]
    cache = TarCache(tmp_path, 3 * 4 * max(tar.size for tar in tars))
    fetched: list[str] = []
    read_range = remote.storage.read_range

    def counted(name: str, start: int, end: int) -> bytes:
        fetched.append(name)
        return read_range(name, start, end)

    monkeypatch.setattr(remote.storage, "read_range", counted)
    batches = list(Reader(remote, batch_size=4, order="windowed-2", epochs=1, cache=cache))
    assert sum(map(len, batches)) == 8 * 24
    assert sorted(fetched) == sorted(tar.name for tar in tars)


def test_damage_on_s3_is_quarantined_like_on_disk(s3: dict[str, Any], tmp_path: Path) -> None:
    store = make_wide_store("s3://bucket/damaged", 24, SHARD, columns=[SMALL_LOGMEL], **s3)
    snapshot = Snapshot.open(store, SPLIT, "logmel")
    names = [tar.name for tar in snapshot.columns[0].tars]
    data = bytearray(store.storage.read(names[0]))
    data[700] ^= 1
    store.storage.publish(names[0], bytes(data))
    store.storage.remove(names[2])
    reader = Reader(snapshot, batch_size=6, epochs=1, cache=TarCache(tmp_path, 10**6))
    batches = list(reader)
    assert sorted(read(batches)) == [f"wide{number:07d}_0" for number in range(8, 16)]
    assert sum(batch.missing for batch in batches) == 16
    reasons = [reader.quarantined[snapshot.storage.url(names[at])] for at in (0, 2)]
    assert "sha256" in reasons[0] and "no such object" in reasons[1]


def test_a_cache_smaller_than_a_shard_is_refused(bucket: Store, tmp_path: Path) -> None:
    remote = Snapshot.open(bucket, SPLIT, COLUMNS)
    with pytest.raises(ValueError, match="a cache that holds the largest shard"):
        Reader(remote, batch_size=4, cache=TarCache(tmp_path, 1000))


def test_an_iteration_that_is_left_early_stops_its_threads(bucket: Store, tmp_path: Path) -> None:
    def ours() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "avlens" in thread.name]

    remote = Snapshot.open(bucket, SPLIT, COLUMNS)
    batches = iter(Reader(remote, batch_size=4, order="windowed-2", workers=2, cache=TarCache(tmp_path, 10**6)))
    next(batches)
    assert {name.rstrip("_0123456789") for name in ours()} == {"avlens-read", "avlens-prefetch", "avlens-fetch"}
    batches.close()  # type: ignore[attr-defined]
    assert ours() == []
