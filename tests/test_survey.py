"""Shard states from listings and footers: what is current, and which tars are live."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from store_factory import LOGMEL, SPLIT, VIDEO, commit_column, commit_media, make_plan, make_store

from stores.layout import Store, StoreError
from stores.plans import labels_digests
from stores.storage import StorageError
from stores.survey import ShardState, live_tars, planned_states, read_all, read_states
from stores.tables import PLAN_SCHEMA, to_parquet


def states(store: Store) -> list[ShardState]:
    found = planned_states(store, SPLIT)
    read_states(store, found, [LOGMEL.column, VIDEO.column])
    return found


def current(store: Store) -> list[list[bool]]:
    return [[state.is_current(spec.column, spec.digest) for spec in (LOGMEL, VIDEO)] for state in states(store)]


def test_current_stale_and_missing(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0, 1))
    assert current(store) == [[True, True], [True, True], [False, False]]
    commit_media(store, 1, fetch=[4])
    assert current(store) == [[True, True], [False, False], [False, False]]
    commit_column(store, VIDEO, 1)
    assert current(store) == [[True, True], [False, True], [False, False]]


def test_a_plan_says_what_is_planned_in_its_footer_and_in_its_rows_if_it_is_older(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=())
    digests = labels_digests(make_plan(), 5)
    found = planned_states(store, SPLIT)
    assert [(state.shard, state.planned, state.labels) for state in found] == [
        (0, 5, digests[0]),
        (1, 5, digests[1]),
        (2, 2, digests[2]),
    ]
    plan, summary = store.read_plan(SPLIT)
    name = store.plan_name(SPLIT)
    # Its rows are not read: other ones change nothing.
    store.storage.publish(name, to_parquet(plan.slice(0, 1), PLAN_SCHEMA, summary))
    assert planned_states(store, SPLIT) == found
    assert summary.pop("labels_sha256") == list(digests)
    store.storage.publish(name, to_parquet(plan, PLAN_SCHEMA, summary))
    assert planned_states(store, SPLIT) == found
    store.storage.publish(name, to_parquet(plan, PLAN_SCHEMA, {**summary, "labels_sha256": digests[:2]}))
    with pytest.raises(StorageError, match="2 digests for 12 clips in shards of 5"):
        planned_states(store, SPLIT)
    with pytest.raises(StoreError, match="no split other"):
        planned_states(store, "other")


def test_another_spec_or_other_labels_are_not_current(tmp_path: Path) -> None:
    state = states(make_store(tmp_path))[0]
    assert not state.is_current(LOGMEL.column, "00000000")
    assert not state.is_current("logmel-00000000", LOGMEL.digest)
    state.labels = "0" * 64
    assert not state.is_current(LOGMEL.column, LOGMEL.digest)


def test_only_what_is_there_is_read_and_sizes_are_those_on_disk(tmp_path: Path) -> None:
    store = make_store(tmp_path, columns=(LOGMEL,), shards=(1,))
    first, second = (ShardState(SPLIT, shard, 5, "") for shard in (0, 1))
    sizes = read_states(store, [first, second], [LOGMEL.column])
    assert (first.ledger, first.manifests) == (None, {})
    assert second.ledger is not None
    assert second.ledger["fetched"] == 3
    assert second.manifests[LOGMEL.column]["counts"] == {"ok": 2, "undecodable": 0, "crashed": 1}
    folders = [tmp_path / "media" / SPLIT, tmp_path / "features" / LOGMEL.column / SPLIT]
    on_disk = {str(file.relative_to(tmp_path)): file.stat().st_size for folder in folders for file in folder.iterdir()}
    assert sizes == on_disk
    assert len(on_disk) == 4


def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.storage.publish(store.ledger_name(SPLIT, 1), b"PAR1")
    with pytest.raises(StorageError, match=r"media/eval/00001\.parquet"):
        states(store)


def test_live_tars_in_shard_order_without_garbage(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(2, 0))
    before = live_tars(store, SPLIT, LOGMEL.column)
    assert [name.rsplit("/", 1)[1][:5] for name in before] == ["00000", "00002"]
    commit_media(store, 0, fetch=[2])
    commit_column(store, LOGMEL, 0)
    after = live_tars(store, SPLIT, LOGMEL.column)
    assert after[0] != before[0] and after[1] == before[1]
    assert all(store.storage.size(name) for name in [*before, *after])
    with pytest.raises(StoreError, match="it has: eval"):
        live_tars(store, "train", LOGMEL.column)


def test_read_all_keeps_order_and_raises_the_error_as_it_is() -> None:
    assert read_all(lambda item: item * item, range(100)) == [item * item for item in range(100)]
    with pytest.raises(ZeroDivisionError):
        read_all(lambda item: 1 / item, [1, 0])


@pytest.mark.parametrize("seconds", [0.0, 0.03])
def test_read_all_is_at_once_where_reads_take_their_time(seconds: float) -> None:
    threads = set()

    def read(item: int) -> int:
        time.sleep(seconds)
        threads.add(threading.get_ident())
        return item

    began = time.monotonic()
    assert read_all(read, range(64)) == list(range(64))
    assert time.monotonic() - began < 1.0  # one by one it would be two
    assert (len(threads) > 1) == (seconds > 0)


def test_a_column_whose_tar_is_missing_or_cut_is_lost_and_not_current(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tars = sorted((tmp_path / "features" / LOGMEL.column / SPLIT).glob("*.tar"))
    os.truncate(tars[0], tars[0].stat().st_size - 512)
    tars[1].unlink()
    assert [state.lost for state in states(store)] == [{LOGMEL.column}, {LOGMEL.column}, set()]
    assert current(store) == [[False, True], [False, True], [True, True]]
    assert [state.lost_media for state in states(store)] == [0, 0, 0]


def test_media_whose_tar_is_missing_or_cut_are_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tars = sorted((tmp_path / "media" / SPLIT).glob("*.tar"))
    os.truncate(tars[0], tars[0].stat().st_size - 512)
    tars[1].unlink()
    assert [state.lost_media for state in states(store)] == [1, 1, 0]
