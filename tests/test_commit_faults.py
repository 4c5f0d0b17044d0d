"""Every step of a commit fails once: nothing is half visible, and the next run completes what was begun."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from failing_storage import S3_FAULTS, FailingServer, failing_bucket, full_disk
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


def assert_done(bench: Bench, calm: dict[str, bytes]) -> None:
    """Works once more, and has what an undisturbed run has."""
    work(bench)
    ledger = read_ledger(bench.store, "eval", 0)
    assert ledger is not None and [row.status for row in ledger.rows] == [FETCHED] * 5
    assert visible(bench.store) == calm


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
        with full_disk(at) as faults:
            try:
                work(bench)
            except StorageError:
                assert faults.seen >= faults.at
            visible(bench.store)  # whole, as far as it is
        assert_done(bench, calm)
        # Only what was in flight when the disk was full is fetched twice.
        assert asked.total() <= len(KEYS) + 5
        if faults.seen < at:  # it went through without the fault: there are no more writes
            break
        at += 1 if at < 12 else 3
    assert 20 < at < MOST_STEPS


def disturbed(bench: Bench, server: FailingServer, at: int, how: str, requests: float) -> tuple[int, bool]:
    """Works while a bucket fails from some request on; how many there were, and whether it went through."""
    server.fail(at, how, requests)
    try:
        work(bench)
        through = True
    except StorageError:
        through = False
    seen = server.seen
    server.heal()
    visible(bench.store)  # whole, as far as it is
    return seen, through


ONE, ALL = (1.0,), (math.inf,)
# In the short form faults of all kinds take turns at every few requests, such that pass with such that last.
IN_TURN = [
    ((1.0, math.inf), S3_FAULTS, 8),
    *(pytest.param(lasts, (how,), 1, marks=pytest.mark.slow) for lasts in (ONE, ALL) for how in S3_FAULTS),
]


@pytest.mark.parametrize(("lasts", "kinds", "stride"), IN_TURN)
def test_a_bucket_that_fails_at_any_request(
    shard_media: list[bytes],
    decoders: Any,
    calm: dict[str, bytes],
    lasts: tuple[float, ...],
    kinds: tuple[str, ...],
    stride: int,
) -> None:
    """One request or all from there on: reads, listings and writes of spool, tars and tables over a real connection."""
    passed, lasted = [], []
    with failing_bucket() as (options, server):
        for turn, at in enumerate(range(1, MOST_STEPS, stride)):
            how, requests = kinds[turn % len(kinds)], lasts[turn % len(lasts)]
            bench = Bench(f"s3://bucket/{at}", shard_media, decoders, **options)
            prepare(bench)
            seen, through = disturbed(bench, server, at, how, requests)
            assert_done(bench, calm)
            if seen < at:
                break
            (passed if requests == 1 else lasted).append(through)
    assert 30 < at < MOST_STEPS
    # What lasts is told; what passes is mostly tried again by the client's library before we hear of it.
    assert not any(lasted) and (any(passed) or not passed)
