"""Inventories: equal for equal stores whatever their plans, changed by any change, and comparable clip by clip."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_factory import (
    CLASSES,
    LOGMEL,
    SPLIT,
    VIDEO,
    commit_column,
    commit_media,
    make_plan,
    make_store,
    make_wide_store,
)

from pipeline.classes import read_class_list
from pipeline.segments import read_segments
from stores.forget import forget
from stores.inventory import (
    SCHEMA,
    Inventory,
    compare,
    read_inventory,
    rows_digest,
    segments_csv,
    take_inventory,
    write_inventory,
)
from stores.layout import Store, StoreError
from stores.ledger import FAILED, FETCHED, LedgerRow, commit_ledger
from stores.storage import ABSENT

KEYS = [row["key"] for row in make_plan().to_pylist()]


def by_key(inventory: Inventory) -> dict[str, dict[str, str]]:
    return {row["key"]: row for row in inventory.rows.to_pylist()}


def test_every_planned_segment_with_what_became_of_it(tmp_path: Path) -> None:
    found = take_inventory(make_store(tmp_path))
    rows = by_key(found)
    assert found.rows.schema == SCHEMA and sorted(rows) == sorted(KEYS)
    assert Counter(row["status"] for row in rows.values()) == {"fetched": 9, "failed": 2, "pending": 1}
    assert found.summary["splits"] == {
        SPLIT: {"planned": 12, "fetched": 9, "failed": {"gone": 1, "gone_here": 1}, "pending": {"throttled": 1}}
    }
    assert rows[KEYS[6]]["columns"] == f"{LOGMEL.column},{VIDEO.column}" and len(rows[KEYS[6]]["media_sha256"]) == 64
    assert rows[KEYS[2]]["cause"] == "gone" and rows[KEYS[2]]["columns"] == ""
    assert rows[KEYS[4]]["status"] == "fetched" and rows[KEYS[4]]["columns"] == ""  # undecodable
    assert sorted(found.summary["columns"]) == [LOGMEL.column, VIDEO.column]


def test_a_store_that_is_not_fetched_yet(tmp_path: Path) -> None:
    found = take_inventory(make_store(tmp_path, shards=(0,)))
    assert found.summary["splits"][SPLIT]["pending"] == {"untried": 7}


def test_equal_stores_give_equal_files_and_any_change_another(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    for name, store in (("1", first), ("2", second)):
        write_inventory(take_inventory(store), tmp_path / name)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    digest = read_inventory(tmp_path / "1").summary["rows_sha256"]
    commit_media(second, 1, fetch=[4])
    fetched = take_inventory(second).summary["rows_sha256"]
    commit_column(second, LOGMEL, 1)
    computed = take_inventory(second).summary["rows_sha256"]
    list(forget(second, [KEYS[6]]))
    assert len({digest, fetched, computed, take_inventory(second).summary["rows_sha256"]}) == 4


def with_ledgers(store: Store, clips: int) -> Store:
    """A wide store whose clips are fetched, but for every fifth."""
    size = store.config.shard_size
    for shard in range(-(-clips // size)):
        rows = []
        for position, number in enumerate(range(shard * size, min(clips, (shard + 1) * size))):
            row = LedgerRow(position, f"wide{number:07d}_0", FAILED, "gone")
            sha256 = f"{number:064d}"
            fetched = LedgerRow(position, row.key, FETCHED, media_sha256=sha256, media_bytes=1, origin="dir")
            rows.append(row if number % 5 == 0 else fetched)
        commit_ledger(store, SPLIT, shard, rows, {}, ABSENT)
    return store


def test_it_does_not_depend_on_the_plans_order(tmp_path: Path) -> None:
    lacking = [("logmel", 3), ("embedding", 12)]
    stores = [
        with_ledgers(make_wide_store(str(tmp_path / str(size)), clips=20, shard_size=size, lacking=lacking), 20)
        for size in (4, 7)
    ]
    found = [take_inventory(store) for store in stores]
    assert found[0].summary["rows_sha256"] == found[1].summary["rows_sha256"]
    rows = by_key(found[0])
    assert rows["wide0000005_0"]["status"] == "failed" and rows["wide0000007_0"]["media_sha256"] == f"{7:064d}"
    both, one = rows["wide0000007_0"]["columns"], rows["wide0000003_0"]["columns"]
    assert both.count(",") == 1 and one in both and one.startswith("embedding-")


def test_a_column_whose_tar_is_lost_has_no_clip(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    next((tmp_path / "features" / LOGMEL.column / SPLIT).glob("00001.*.tar")).unlink()
    assert by_key(take_inventory(store))[KEYS[6]]["columns"] == VIDEO.column


def test_splits_are_never_mixed_unasked(tmp_path: Path) -> None:
    stores = []
    for name in "ab":
        store = make_wide_store(str(tmp_path / name), clips=6, shard_size=4)
        make_wide_store(str(tmp_path / name), clips=6, shard_size=4, split="train", first=4)
        stores.append(take_inventory(store))
    with pytest.raises(ValueError, match="has .eval, train., got none"):
        compare(*stores)
    with pytest.raises(ValueError, match="has .eval, train., got valid"):
        compare(*stores, splits=("valid",))
    assert len(compare(*stores, splits=("eval",)).both) == 0  # none is fetched


def test_what_is_no_inventory_or_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "list"
    write_inventory(take_inventory(make_store(tmp_path / "store")), path)
    good = read_inventory(path)
    rows = good.rows.to_pylist()
    rows[3]["status"] = "fetched" if rows[3]["status"] != "fetched" else "failed"
    changed = Inventory(pa.Table.from_pylist(rows, SCHEMA), good.summary)
    write_inventory(changed, path)
    with pytest.raises(ValueError, match="changed afterwards"):
        read_inventory(path)
    for damage in (b"", b"hello", b"PAR1"):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match="no readable inventory"):
            read_inventory(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match="no readable inventory"):
        read_inventory(path)


def test_splits_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it has: eval"):
        take_inventory(make_store(tmp_path), ("train",))


def test_a_comparison_is_of_what_both_can_use(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    commit_media(second, 1, fetch=[0, 4])
    list(forget(second, [KEYS[6], KEYS[10]]))
    found = compare(take_inventory(first), take_inventory(second))
    usable = {key for key, row in by_key(take_inventory(first)).items() if row["status"] == "fetched"}
    assert set(found.both["key"].to_pylist()) == usable - {KEYS[6], KEYS[10]}
    assert (len(found.both), found.only_first, found.only_second) == (7, 2, 2)
    assert (found.same_media, found.other_labels) == (7, 0)
    heard = compare(take_inventory(first), take_inventory(second), ("logmel",))
    assert len(heard.both) == 5 and KEYS[4] not in heard.both["key"].to_pylist()
    assert len(compare(take_inventory(first), take_inventory(second), ("logmel", "r2plus1d_18")).both) == 5
    assert len(compare(take_inventory(first), take_inventory(second), (LOGMEL.column,)).both) == 5
    with pytest.raises(ValueError, match="got 'log'"):
        compare(take_inventory(first), take_inventory(second), ("log",))


def test_other_bytes_and_other_labels_are_counted(tmp_path: Path) -> None:
    first = take_inventory(make_store(tmp_path))
    rows = first.rows.to_pylist()
    fetched = [row for row in rows if row["status"] == "fetched"]
    fetched[0]["media_sha256"], fetched[1]["mids"] = "0" * 64, "/m/other"
    second = Inventory(pa.Table.from_pylist(rows, SCHEMA), first.summary)
    found = compare(first, second)
    assert (len(found.both), found.same_media, found.other_labels) == (9, 8, 1)


def test_a_clip_of_two_splits_counts_once() -> None:
    row = {
        "key": "a_0",
        "ytid": "a",
        "start_ms": 0,
        "end_ms": 10_000,
        "mids": "/m/x",
        "status": "fetched",
        "columns": "",
    }
    rows = pa.Table.from_pylist([{"split": split, "cause": None, "media_sha256": "1", **row} for split in "ab"], SCHEMA)
    inventory = Inventory(rows, {"rows_sha256": rows_digest(rows), "splits": {"a": {}, "b": {}}, "columns": {}})
    assert len(compare(inventory, inventory, splits=("a", "b")).both) == 1


def test_the_list_is_one_that_an_ingest_reads(tmp_path: Path) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    found = compare(inventory, inventory)
    path, classes = tmp_path / "list.csv", tmp_path / "classes.csv"
    path.write_text(segments_csv(found.both))
    lines = [f'{i},{mid},"{name}"' for i, (mid, name) in enumerate(CLASSES)]
    classes.write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    table = read_segments(path, read_class_list(str(classes)), False)
    assert table.bad_rows.total == 0 and len(table.table) == 9
    keys = [f"{row['ytid']}_{row['start_ms']}" for row in table.table.to_pylist()]
    assert keys == found.both["key"].to_pylist() == sorted(keys)


def test_rows_folded_into_one_field_are_other_rows(tmp_path: Path) -> None:
    """What a signature holds is the digest: no other rows may have it."""
    inventory = take_inventory(make_store(tmp_path))
    rows = inventory.rows.to_pylist()
    lines = ["\t".join("" if value is None else str(value) for value in row.values()) for row in rows[1:3]]
    folded = {**rows[0], "columns": "\n".join([rows[0]["columns"] or "", *lines])}
    assert rows_digest(pa.Table.from_pylist([folded, *rows[3:]], SCHEMA)) != rows_digest(inventory.rows)
    empty = [{**row, "cause": row["cause"] or ""} for row in rows]
    assert rows_digest(pa.Table.from_pylist(empty, SCHEMA)) != rows_digest(inventory.rows)
    assert rows_digest(pa.concat_tables([inventory.rows[:4], inventory.rows[4:]])) == rows_digest(inventory.rows)


@pytest.mark.parametrize(
    "change",
    [
        {"ytid": 'evil"\n'},
        {"key": "a,b"},
        {"mids": None},
        {"start_ms": None},
        {"split": None},
        {"mids": '/m/09x0r"\nINJECTEDxxx, 0.000, 10.000, "/m/09x0r'},
        {"key": "clip0000001_0", "ytid": "EVILEVILEVI", "start_ms": 0},
        {"start_ms": -5},
        {"end_ms": 0},
    ],
)
def test_rows_that_no_store_has_are_refused(tmp_path: Path, change: dict[str, str | None]) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    rows = pa.Table.from_pylist([{**row, **change} for row in inventory.rows.to_pylist()], SCHEMA)
    made = Inventory(rows, {**inventory.summary, "rows_sha256": rows_digest(rows)})
    write_inventory(made, tmp_path / "list")
    with pytest.raises(ValueError, match="no readable inventory"):
        read_inventory(tmp_path / "list")


@pytest.mark.parametrize("summary", [{"splits": []}, {"columns": None}, {"splits": {"eval": 3}}])
def test_a_summary_that_no_store_has_is_refused(tmp_path: Path, summary: dict[str, object]) -> None:
    inventory = take_inventory(make_store(tmp_path / "store"))
    write_inventory(Inventory(inventory.rows, {**inventory.summary, **summary}), tmp_path / "list")
    with pytest.raises(ValueError, match="no readable inventory"):
        read_inventory(tmp_path / "list")
