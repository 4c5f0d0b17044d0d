"""What nothing refers to is found, what anything may still need is not, and age decides what goes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from s3_bucket import s3_bucket
from store_factory import (
    LOGMEL,
    SMALL_LOGMEL,
    SMALL_VIDEO,
    SPLIT,
    UNFETCHED,
    VIDEO,
    commit_column,
    commit_media,
    commit_wide_shard,
    make_store,
    make_wide_store,
    wide_row,
)

from stores.cache import TarCache
from stores.garbage import Garbage, _is_still, find_garbage, remove_garbage
from stores.layout import Store
from stores.ledger import FETCHED, PENDING, LedgerRow, commit_ledger, read_ledger
from stores.reader import Reader
from stores.snapshot import Snapshot
from stores.spool import Spool
from stores.storage import Storage
from stores.verify import verify

HOUR = 3600.0
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


def age(path: Path, hours: float) -> None:
    at = time.time() - hours * HOUR
    os.utime(path, (at, at))


def names(found: list[Garbage]) -> list[str]:
    return sorted(item.name for item in found)


def test_a_store_that_nothing_happened_to_has_none(tmp_path: Path) -> None:
    assert list(find_garbage(make_store(tmp_path))) == []


def test_a_tar_that_was_replaced_is_garbage_since_it_was(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = tmp_path / "features" / LOGMEL.column / SPLIT
    before = next(folder.glob("00001.*.tar"))
    for path in tmp_path.rglob("*.*"):
        age(path, 100)
    commit_media(store, 1, fetch=[4])
    commit_column(store, LOGMEL, 1)
    (found,) = find_garbage(store)
    assert found.name == f"features/{LOGMEL.column}/{SPLIT}/{before.name}" and found.size == before.stat().st_size
    assert time.time() - found.since < 60  # the tar is old; that nothing names it is new

    assert list(remove_garbage(store, HOUR)) == [] and before.exists()
    assert names(list(remove_garbage(store, HOUR, now=lambda: time.time() + 2 * HOUR))) == [found.name]
    assert not before.exists() and not any(checked.problems for checked in verify(store, media=True))


def test_what_was_never_committed(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0, 1))
    media, features = tmp_path / "media" / SPLIT, f"features/{LOGMEL.column}/{SPLIT}"
    (media / "00002.0badcafe.tar").write_bytes(b"perhaps the only ones: the ledger may have been lost")
    (tmp_path / features / "00002.0badcafe.tar").write_bytes(b"x" * 10)
    (tmp_path / ".tmp" / ("a" * 32)).write_bytes(b"y")
    for other in (media / "notes.txt", media / "00002.tar", tmp_path / ".tmp/mine"):
        other.write_text("not ours")
    age(tmp_path / features / "00002.0badcafe.tar", 3)
    found = {item.name: item for item in find_garbage(store)}
    assert sorted(found) == [f".tmp/{'a' * 32}", f"{features}/00002.0badcafe.tar"]
    assert found[f"{features}/00002.0badcafe.tar"].why == "never committed"
    assert names(list(remove_garbage(store, HOUR))) == [f"{features}/00002.0badcafe.tar"]
    assert (media / "notes.txt").exists() and (media / "00002.tar").exists()


def test_what_is_committed_after_the_listing_stays(tmp_path: Path) -> None:
    """An ingest that was killed between tar and manifest is started again while garbage is removed."""
    store = make_store(tmp_path)
    manifest = tmp_path / "features" / LOGMEL.column / SPLIT / "00001.parquet"
    (tar,) = manifest.parent.glob("00001.*.tar")
    commit = manifest.read_bytes()
    manifest.unlink()
    for path in tmp_path.rglob("*.*"):
        age(path, 100)
    for again in (lambda: manifest.write_bytes(commit), lambda: os.utime(tar)):
        listed = find_garbage(store)
        found = next(listed)
        again()
        assert not _is_still(store, found)
        manifest.unlink(missing_ok=True)
        age(tar, 100)
    assert len(list(remove_garbage(store, HOUR))) == 1 and not tar.exists()


def test_of_a_shard_whose_table_is_damaged_nothing_is_garbage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = make_store(tmp_path)
    for name in (f"media/{SPLIT}/00000.parquet", f"features/{VIDEO.column}/{SPLIT}/00001.parquet"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:100])
    assert list(find_garbage(store)) == []
    assert "00000.parquet cannot be read" in caplog.text and "00001.parquet cannot be read" in caplog.text
    Spool(store, SPLIT, 1).put(LedgerRow(0, "x_0", PENDING, attempts=1), None)
    assert list(find_garbage(store)) == [] and "nothing of its spool" in caplog.text


@pytest.mark.parametrize("other", ["media/{}/00001.parquet", "features/{}/{}/00000.parquet"])
def test_a_table_that_is_another_shards_costs_no_tar(
    tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path)
    wrong = other.format(SPLIT) if other.startswith("media") else other.format(store.columns()[0], SPLIT)
    (tmp_path / store.ledger_name(SPLIT, 0)).write_bytes((tmp_path / wrong).read_bytes())
    assert list(find_garbage(store)) == [] and "is not a readable table" in caplog.text


def spool_all(store: Store, shard: int, attempts: int) -> list[LedgerRow]:
    ledger = read_ledger(store, SPLIT, shard)
    assert ledger is not None
    for row in ledger.rows:
        media = b"m" if row.status == FETCHED else None
        Spool(store, SPLIT, shard).put(replace(row, attempts=attempts), media)
    return list(ledger.rows)


def test_a_spool_that_its_ledger_has(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    rows = spool_all(store, 1, 1)
    assert len(list(find_garbage(store))) == len(rows) == 5
    spool_all(store, 1, 2)  # tried once more than the ledger knows of
    assert list(find_garbage(store)) == []


def test_a_spool_that_columns_wait_for_is_none(tmp_path: Path) -> None:
    """With media dropped the spool is the only place of a clip's bytes."""
    store = make_store(tmp_path)
    ledger = read_ledger(store, SPLIT, 0)
    assert ledger is not None
    dropped = [replace(row, tar=None, offset=None) for row in ledger.rows]
    commit_ledger(store, SPLIT, 0, dropped, {}, ledger.version)
    spool_all(store, 0, 1)
    fetched = sum(row.status == FETCHED for row in dropped)
    assert (0, 2) in UNFETCHED and fetched == 4
    spooled = [item for item in find_garbage(store) if item.name.startswith("spool/")]
    assert len(spooled) == 5  # both columns are up to date: nothing waits
    manifest = tmp_path / "features" / VIDEO.column / SPLIT / "00000.parquet"
    manifest.unlink()
    spooled = [item for item in find_garbage(store) if item.name.startswith("spool/")]
    assert [item.name for item in spooled] == [f"spool/{SPLIT}/00000/00002.tar"]  # only the one that failed


def test_a_shard_before_its_first_commit_keeps_its_spool(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0,))
    key = store.read_plan(SPLIT)[0].to_pylist()[5]["key"]
    Spool(store, SPLIT, 1).put(LedgerRow(0, key, PENDING, "throttled", attempts=1, last_attempt=AT), None)
    assert list(find_garbage(store)) == []


def test_in_a_bucket() -> None:
    with s3_bucket() as options:
        store = make_wide_store("s3://bucket/store", clips=10, **options)
        storage = Storage("s3://bucket/store", **options)
        column = store.columns()[0]
        storage.publish(f"features/{column}/{SPLIT}/00001.0badcafe.tar", b"x")
        (found,) = find_garbage(store)
        assert found.name == f"features/{column}/{SPLIT}/00001.0badcafe.tar"
        assert abs(found.since - time.time()) < 60
        assert list(remove_garbage(store, HOUR)) == []
        assert len(list(remove_garbage(store, 0, now=lambda: time.time() + HOUR))) == 1
        assert list(find_garbage(store)) == []


def rebuilt(store: Store, clips: int) -> None:
    """Every column shard with other values under the same column, as after a supplement: all its tars are new."""
    for spec in (SMALL_LOGMEL, SMALL_VIDEO):
        rows = [wide_row(number, number, 8) for number in range(clips)]
        for shard in range(-(-clips // 8)):
            commit_wide_shard(store, spec, SPLIT, shard, rows[shard * 8 :][:8], lacks=[shard * 8 + 1])


def batches(
    snapshot: Snapshot, between: Callable[[int], object], **options: Any
) -> list[tuple[list[str], list[bytes]]]:
    found = []
    reader = Reader(snapshot, order="uniform", batch_size=7, seed=3, epochs=2, **options)
    for number, batch in enumerate(reader):
        found.append((batch.keys, [array.tobytes() for array in batch.arrays.values()]))
        between(number)
    return found


@pytest.mark.parametrize("where", ["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def test_a_training_goes_on_with_its_snapshot_through_ingest_rebuild_and_gc(tmp_path: Path, where: str) -> None:
    with s3_bucket() if where == "bucket" else nullcontext({}) as options:
        uri = "s3://bucket/store" if where == "bucket" else str(tmp_path / "store")
        store = make_wide_store(uri, clips=60, shard_size=8, **options)
        snapshot = Snapshot.open(store, SPLIT, ["logmel", "embedding"])
        size = max(tar.size for column in snapshot.columns for tar in column.tars)
        more = {"cache": TarCache(tmp_path / "cache", 4 * size)} if where == "bucket" else {}  # less than the store
        calm = batches(snapshot, lambda _: None, **more)

        def disturb(number: int) -> None:
            if number == 2:
                rebuilt(store, 60)
                make_wide_store(uri, clips=9, shard_size=8, split="more", first=100, **options)
            if number in (3, 9):
                assert list(remove_garbage(store, HOUR)) == []  # what was replaced just now is not old enough

        again = {"cache": TarCache(tmp_path / "other", 4 * size)} if where == "bucket" else {}
        assert batches(snapshot, disturb, **again) == calm
        assert len(list(find_garbage(store))) == 16
        assert Snapshot.open(store, SPLIT, ["logmel", "embedding"]).digest != snapshot.digest
