"""Plans in the store: found again, labels replaced, other segments refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.classes import read_class_list
from pipeline.segments import read_segments
from pipeline.splits import plan_split
from stores.layout import Store, StoreError

HEAD = "# Segments csv\n# num_ytids=3\n# YTID, start_seconds, end_seconds, positive_labels\n"
ROWS = [
    '-a_b, 0.000, 10.000, "/m/09x0r,/m/05zppz"',
    'AbC, 30.000, 40.000, "/m/09x0r"',
    'aBc, 30.000, 39.500, "/m/02zsn"',
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(str(tmp_path / "store"), shard_size=2, seed=5)


def plan(store: Store, tmp_path: Path, rows: list[str], name: str = "mine"):
    path = tmp_path / "list.csv"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    classes = read_class_list()
    return plan_split(store, name, read_segments(path, classes), classes)


def test_a_plan_is_stored_once_and_found_again(store: Store, tmp_path: Path) -> None:
    first = plan(store, tmp_path, ROWS)
    data = store.storage.read("plan/mine.parquet")
    again = plan(store, tmp_path, ROWS)
    assert store.storage.read("plan/mine.parquet") == data
    assert (first.shards, again.labels_digests) == (2, first.labels_digests)
    assert [s.key for shard in range(2) for s in again.segments(shard)] == first.plan["key"].to_pylist()
    table, summary = store.read_plan("mine")
    assert table.to_pylist() == first.plan.to_pylist()
    assert summary["segments"] == 3
    assert summary["classes"][0] == ["/m/09x0r", "Speech"]


def test_corrected_labels_replace_the_plan_and_change_only_their_shard(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = plan(store, tmp_path, ROWS)
    key = "AbC_30000"
    shard = next(i for i in range(2) if key in [s.key for s in before.segments(i)])
    after = plan(store, tmp_path, [ROWS[0], ROWS[1].replace("/m/09x0r", "/m/05zppz"), ROWS[2]])
    assert after.plan["key"].to_pylist() == before.plan["key"].to_pylist()
    changed = [a != b for a, b in zip(after.labels_digests, before.labels_digests, strict=True)]
    assert changed == [i == shard for i in range(2)]
    stored, _ = store.read_plan("mine")
    assert ["/m/05zppz"] in stored["mids"].to_pylist()
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "other labels than the last one in 1 of 2 shards" in record.getMessage()


@pytest.mark.parametrize("rows", [ROWS[:2], [*ROWS[:2], ROWS[2].replace("39.500", "40.000")]])
def test_other_segments_under_the_same_name_are_refused(store: Store, tmp_path: Path, rows: list[str]) -> None:
    plan(store, tmp_path, ROWS)
    with pytest.raises(StoreError, match="planned from other segments"):
        plan(store, tmp_path, rows)
    assert plan(store, tmp_path, rows, "other").name == "other"


def test_a_store_whose_settings_were_changed_by_hand_is_refused_by_name(store: Store, tmp_path: Path) -> None:
    plan(store, tmp_path, ROWS)
    path = tmp_path / "store" / "store.json"
    path.write_text(
        path.read_text().replace('"shard_size": 2', '"shard_size": 3').replace('"shard_size":2', '"shard_size":3')
    )
    with pytest.raises(StoreError, match=r"store\.json"):
        plan(Store.open(str(tmp_path / "store")), tmp_path, ROWS)


def test_a_shard_size_beyond_reason_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="shard size"):
        Store.open_or_create(str(tmp_path / "other"), shard_size=3_000_000_000)
    assert not (tmp_path / "other" / "store.json").exists()
