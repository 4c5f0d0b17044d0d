"""What an older manifest spares: clips of the same media, whole bytes, and none that shall be tried again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from store_factory import LOGMEL, SPLIT, array_of, make_store

from pipeline.column_reuse import repeated, reuse, tar_is_lost
from pipeline.splits import stored_split
from stores.layout import Store
from stores.ledger import FETCHED, LedgerRow, read_ledger
from stores.manifest import Manifest, read_manifest

FOLDER = f"features/{LOGMEL.column}/{SPLIT}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path)


def parts(store: Store) -> tuple[Manifest, list[LedgerRow], list]:
    old, ledger = read_manifest(store, LOGMEL.column, SPLIT, 0), read_ledger(store, SPLIT, 0)
    assert old is not None and ledger is not None
    return old, [row for row in ledger.rows if row.status == FETCHED], stored_split(store, SPLIT).segments(0)


def test_rows_and_arrays_of_the_same_media(store: Store) -> None:
    old, fetched, segments = parts(store)
    segments[0] = replace(segments[0], labels=(7,), mids=("/m/new",))
    rows, arrays = reuse(store, FOLDER, old, fetched, segments, frozenset())
    assert sorted(rows) == [0, 1, 3, 4] and sorted(arrays) == [0, 1, 3]  # 4 is undecodable, and stays so
    for position, array in arrays.items():
        np.testing.assert_array_equal(array, array_of(LOGMEL, rows[position]))
    assert rows[0].labels == (7,) and rows[0].mids == ("/m/new",)


def test_other_media_and_chosen_clips_are_not_taken_over(store: Store) -> None:
    old, fetched, segments = parts(store)
    fetched[0] = replace(fetched[0], media_sha256="0" * 64)
    fetched[1] = replace(fetched[1], media_start_ms=500)
    rows, _ = reuse(store, FOLDER, old, fetched, segments, frozenset({4}))
    assert sorted(rows) == [3]


def test_bytes_that_have_changed_are_computed_again(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    old, fetched, segments = parts(store)
    tar = Path(store.storage.root, FOLDER, old.summary["tar"]["name"])
    data = bytearray(tar.read_bytes())
    place = next(row.array_offset for row in old.rows if row.key == segments[1].key)
    assert place is not None
    data[place + 200] ^= 1
    tar.write_bytes(data)
    rows, _ = reuse(store, FOLDER, old, fetched, segments, frozenset())
    assert sorted(rows) == [0, 3, 4] and "have changed; it is computed again" in caplog.text


def test_clips_of_a_status(store: Store) -> None:
    old, _, segments = parts(store)
    assert repeated(old, segments, {"undecodable"}, None) == {4}
    assert repeated(old, segments, {"ok"}, {0, 2, 4}) == {0}
    assert repeated(old, segments, set(), None) == repeated(None, segments, {"ok"}, None) == set()


def test_a_tar_that_is_not_there_whole(store: Store) -> None:
    old, _, _ = parts(store)
    tar = Path(store.storage.root, FOLDER, old.summary["tar"]["name"])
    assert not tar_is_lost(store, FOLDER, old)
    tar.write_bytes(tar.read_bytes()[:-1])
    assert tar_is_lost(store, FOLDER, old)
    tar.unlink()
    assert tar_is_lost(store, FOLDER, old)
    assert not tar_is_lost(store, FOLDER, replace(old, summary={**old.summary, "tar": None}))
