"""Every write of a commit fails once: nothing is half visible, and the next run completes what was begun."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from failing_storage import S3_FAULTS, Faults, failing_bucket, full_disk
from s3_bucket import s3_bucket
from shard_bench import KEYS, Bench

from stores.layout import Store
from stores.ledger import FETCHED, read_ledger
from stores.manifest import read_manifest
from stores.storage import StorageError

# Five fetched clips and two columns: puts of the spool, tars, tables.
MOST_STEPS = 200


def work(bench: Bench) -> None:
    bench.fetch()
    bench.compute()


def visible(store: Store) -> dict[str, bytes]:
    """All that a reader of the store can see: tables, and the tars that they name. Raises where one is not whole."""
    found: dict[str, bytes] = {}
    ledger = read_ledger(store, "eval", 0)
    if ledger is not None:
        for name, facts in ledger.tars.items():
            data = store.storage.read(f"media/eval/{name}")
            assert len(data) == facts["size"]
        found["ledger"] = repr([(row.key, row.status, row.media_sha256) for row in ledger.rows]).encode()
    for column in store.columns():
        manifest = read_manifest(store, column, "eval", 0)
        if manifest is not None and manifest.summary["tar"]:
            data = store.storage.read(f"features/{column}/eval/{manifest.summary['tar']['name']}")
            assert len(data) == manifest.summary["tar"]["size"]
            found[column] = data
    return found


def run(bench: Bench, faults: AbstractContextManager[Faults]) -> int:
    """Works under a fault and then without; how many writes the disturbed run came to."""
    with faults as counted:
        try:
            work(bench)
        except StorageError:
            assert counted.seen >= counted.at > 0
        visible(bench.store)  # whole, as far as it is
    work(bench)
    ledger = read_ledger(bench.store, "eval", 0)
    assert ledger is not None and [row.status for row in ledger.rows] == [FETCHED] * 5
    return counted.seen


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, shard_media: list[bytes], decoders: Any) -> dict[str, bytes]:
    bench = Bench(str(tmp_path_factory.mktemp("calm") / "store"), shard_media, decoders)
    prepare(bench)
    work(bench)
    return visible(bench.store)


def prepare(bench: Bench) -> None:
    for column in bench.columns:
        bench.store.write_spec(column.spec)


def test_a_disk_that_is_full_at_any_write(
    tmp_path: Path, shard_media: list[bytes], decoders: Any, calm: dict[str, bytes]
) -> None:
    at, steps = 1, MOST_STEPS
    while at <= steps:
        bench = Bench(str(tmp_path / str(at)), shard_media, decoders)
        prepare(bench)
        asked = bench.fetcher.asked
        seen = run(bench, full_disk(at))
        assert visible(bench.store) == calm, at
        # Only what was in flight when the disk was full is fetched twice.
        assert asked.total() <= len(KEYS) + 5
        if seen < at:  # it went through without the fault: there are no more writes
            break
        at += 1 if at < 12 else 3
    assert 20 < at < MOST_STEPS


@pytest.mark.parametrize(
    ("kinds", "stride"), [(S3_FAULTS, 2), *(pytest.param((how,), 1, marks=pytest.mark.slow) for how in S3_FAULTS)]
)
def test_a_bucket_that_fails_at_any_put(
    shard_media: list[bytes], decoders: Any, calm: dict[str, bytes], kinds: tuple[str, ...], stride: int
) -> None:
    """In the short form the kinds of fault take turns, at every second put."""
    with s3_bucket() as options:
        for turn, at in enumerate(range(1, MOST_STEPS, stride)):
            how = kinds[turn % len(kinds)]
            bench = Bench(f"s3://bucket/{at}", shard_media, decoders, **options)
            prepare(bench)
            seen = run(bench, failing_bucket(bench.store.storage.fs, at, how))
            assert visible(bench.store) == calm, at
            if seen < at:
                break
        assert 8 < at < MOST_STEPS
