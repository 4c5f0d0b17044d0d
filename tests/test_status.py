"""Status: its numbers against the store's files, and tables that fit a log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from store_factory import (
    CLASSES,
    LOGMEL,
    NOT_BEFORE,
    SPLIT,
    VIDEO,
    commit_column,
    commit_media,
    make_store,
    media_of,
    plan_store,
)

from stores.layout import EGRESSES, Store
from stores.ledger import LedgerRow
from stores.specs import Spec
from stores.spool import Spool
from stores.status import AT_ONCE, ColumnStatus, EgressStatus, SplitStatus, store_status


def split_of(store: Store) -> SplitStatus:
    (split,) = store_status(store).splits
    return split


def column_of(store: Store, name: str = LOGMEL.column) -> ColumnStatus:
    (column,) = [found for found in store_status(store).columns if found.column == name]
    return column


def rows_of(folder: Path) -> list[dict[str, object]]:
    """Every row of a folder's tables, by pyarrow alone."""
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_clips_and_media_are_those_of_the_files(tmp_path: Path) -> None:
    split = split_of(make_store(tmp_path))
    rows = rows_of(tmp_path / "media" / SPLIT)
    assert split.clips == len(rows) == 12
    assert split.fetched == Counter(row["status"] for row in rows)["fetched"] == 9
    assert split.failed == {"gone": 1, "gone_here": 1}
    assert split.pending == {"throttled": 1}
    assert split.next_attempt == NOT_BEFORE.isoformat()
    assert split.media_bytes == sum(len(media_of(str(row["key"]))) for row in rows if row["status"] == "fetched")
    assert (split.shards, split.committed) == (3, 3)
    sizes = [path.stat().st_size for path in (tmp_path / "media" / SPLIT).glob("*.tar")]
    assert (split.tars.live, split.tars.live_bytes) == (3, sum(sizes))
    assert (split.tars.garbage, split.tars.lost, split.spool_clips) == (0, 0, 0)


@pytest.mark.parametrize("spec", [LOGMEL, VIDEO])
def test_columns_are_those_of_the_files(tmp_path: Path, spec: Spec) -> None:
    name = spec.column
    column = column_of(make_store(tmp_path), name)
    rows = rows_of(tmp_path / "features" / name / SPLIT)
    statuses = Counter(row["status"] for row in rows)
    assert (column.current, column.stale, column.missing) == (3, 0, 0)
    assert {"ok": column.ok, "undecodable": column.undecodable, "crashed": column.crashed} == dict(statuses)
    assert column.flags == {
        "no_audio": sum(row["has_audio"] is False for row in rows),
        "no_video": sum(row["has_video"] is False for row in rows),
        **{flag: sum(row[flag] is True for row in rows) for flag in ("mute", "still", "short")},
    }
    assert column.flags["no_audio"] == column.flags["no_video"] == column.flags["short"] == 1
    sizes = [path.stat().st_size for path in (tmp_path / "features" / name / SPLIT).glob("*.tar")]
    assert (column.tars.live, column.tars.live_bytes) == (3, sum(sizes))


def test_nothing_done_yet(tmp_path: Path) -> None:
    split = split_of(plan_store(tmp_path))
    assert (split.shards, split.committed, split.fetched, split.clips) == (3, 0, 0, 12)
    assert split.pending == {"untried": 12}
    assert split.next_attempt == AT_ONCE


def test_shards_under_way_are_counted_in_the_spool(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0, 1))
    row = LedgerRow(0, "k_0", attempts=1)
    for shard, positions in ((2, [0, 1]), (1, [4])):
        for position in positions:
            Spool(store, SPLIT, shard).put(replace(row, position=position), None)
    split, column = split_of(store), column_of(store)
    assert (split.committed, split.spool_shards, split.spool_clips) == (2, 2, 3)
    assert split.pending == {"throttled": 1, "untried": 2}
    assert (column.current, column.stale, column.missing) == (2, 0, 1)


def test_a_supplemented_ledger_makes_columns_stale_until_they_are_made_again(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    old = column_of(store).tars
    commit_media(store, 1, fetch=[0, 4])
    assert split_of(store).tars.live == 4
    assert (column_of(store).current, column_of(store).stale) == (2, 1)
    commit_column(store, LOGMEL, 1)
    column = column_of(store)
    assert (column.current, column.stale, column.ok) == (3, 0, 9)
    assert (column.tars.live, column.tars.garbage) == (3, 1)
    assert column.tars.live_bytes > old.live_bytes
    assert column_of(store, VIDEO.column).stale == 1


def test_a_corrected_label_makes_its_shard_stale(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    plan, summary = store.read_plan(SPLIT)
    rows = plan.to_pylist()
    rows[11].update(mids=[CLASSES[7][0]], labels=[7])
    store.write_plan(SPLIT, plan.from_pylist(rows, plan.schema.remove_metadata()), summary)
    column = column_of(store)
    assert (column.current, column.stale, column.missing) == (2, 1, 0)


def test_garbage_and_lost_tars(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    folder = tmp_path / "features" / LOGMEL.column / SPLIT
    first, second, third = sorted(folder.glob("*.tar"))
    second.rename(folder / "00001.00000000.tar")
    third.write_bytes(third.read_bytes()[:-1])
    tars = column_of(store).tars
    assert (tars.live, tars.live_bytes) == (1, first.stat().st_size)
    assert (tars.garbage, tars.lost) == (1, 2)
    assert tars.garbage_bytes == (folder / "00001.00000000.tar").stat().st_size


def test_several_splits_and_columns_in_order(tmp_path: Path) -> None:
    store = make_store(tmp_path, columns=(VIDEO, LOGMEL))
    plan_store(tmp_path, "balanced_train")
    status = store_status(store)
    assert [split.split for split in status.splits] == ["balanced_train", "eval"]
    assert [(column.column, column.split) for column in status.columns] == [
        (name, split) for name in (LOGMEL.column, VIDEO.column) for split in ("balanced_train", "eval")
    ]
    assert status.columns[0].missing == 3


def test_the_dictionary_is_json(tmp_path: Path) -> None:
    status = store_status(make_store(tmp_path)).to_dict()
    assert json.loads(json.dumps(status)).keys() == {"format", "shard_size", "seed", "splits", "columns", "egresses"}
    assert status["splits"][0]["failed"] == {"gone": 1, "gone_here": 1}
    assert datetime.fromisoformat(status["splits"][0]["next_attempt"]).tzinfo == UTC


def test_egresses_are_those_of_the_journals(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store_status(store).egresses == ()
    journals = {"youtube_a": b'{"opened_until": 3600.0, "learnt_gap_s": 24.5}', "http_b": b"{}"}
    journals |= {"http_c": b"no json", "http_d": b"[]", "http_e": b'{"opened_until": 1e300}'}
    for name, data in journals.items():
        store.storage.publish(f"{EGRESSES}/{name}.json", data)
    assert store_status(store).egresses == (
        EgressStatus("http_b", None, 0.0),
        EgressStatus("youtube_a", "1970-01-01T01:00:00+00:00", 24.5),
    )


def test_it_takes_no_import_that_it_does_not_need(tmp_path: Path) -> None:
    make_store(tmp_path)
    code = (
        f"import sys; from stores.__main__ import main; main(['status', {str(tmp_path)!r}]); "
        "sys.exit(bool({'pandas', 'torch', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
