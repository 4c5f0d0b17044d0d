"""The plan: its order, its shards, and what it does not depend on."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.classes import read_class_list
from pipeline.plan import make_plan, plan_segments, shard_count, shard_rows
from pipeline.segments import SCHEMA, Segment, read_segments
from stores.tables import PLAN_SCHEMA


def table_of(keys: list[str]) -> pa.Table:
    rows = [
        {
            "key": key,
            "ytid": key.rpartition("_")[0],
            "start_ms": 0,
            "end_ms": 10_000,
            "mids": ["/m/09x0r"],
            "labels": [0],
        }
        for key in keys
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


@pytest.fixture(scope="module")
def eval_table(shared_data: Path) -> pa.Table:
    return read_segments(shared_data / "eval_segments.csv", read_class_list()).table


def bytes_of(plan: pa.Table, path: Path) -> bytes:
    pq.write_table(plan, path)
    return path.read_bytes()


def test_order_is_that_of_the_keyed_hash(eval_table: pa.Table) -> None:
    plan = make_plan(eval_table, seed=7, shard_size=512)
    keys = eval_table["key"].to_pylist()
    assert plan["key"].to_pylist() == sorted(keys, key=lambda key: (xxhash.xxh3_64_intdigest(f"7:{key}".encode()), key))
    assert plan["shard"].to_pylist() == [row // 512 for row in range(len(keys))]
    assert plan["position"].to_pylist() == [row % 512 for row in range(len(keys))]
    assert plan.schema == PLAN_SCHEMA


def test_rows_stay_whole(eval_table: pa.Table) -> None:
    plan = make_plan(eval_table, seed=0, shard_size=512)
    by_key = {row["key"]: row for row in eval_table.to_pylist()}
    assert {row["key"]: row for row in plan.select(SCHEMA.names).to_pylist()} == by_key


def test_order_is_the_same_for_ever() -> None:
    # Stores are older than libraries: these were written down when the format was made.
    plan = make_plan(table_of([f"video{number}_0" for number in range(6)]), seed=15213, shard_size=4)
    assert plan["key"].to_pylist() == ["video2_0", "video5_0", "video0_0", "video3_0", "video4_0", "video1_0"]


def test_plan_does_not_depend_on_the_order_of_rows_or_chunks(eval_table: pa.Table, tmp_path: Path) -> None:
    reversed_table = eval_table.take(pa.array(range(len(eval_table) - 1, -1, -1)))
    chunked = pa.concat_tables([reversed_table.slice(start, 999) for start in range(0, len(eval_table), 999)])
    wanted = bytes_of(make_plan(eval_table, 3, 100), tmp_path / "a.parquet")
    assert bytes_of(make_plan(chunked, 3, 100), tmp_path / "b.parquet") == wanted
    assert bytes_of(make_plan(eval_table, 3, 100), tmp_path / "c.parquet") == wanted


def test_another_seed_gives_another_order(eval_table: pa.Table) -> None:
    first, second = (make_plan(eval_table, seed, 512)["key"].to_pylist() for seed in (0, 1))
    assert first != second
    assert set(first) == set(second)


def test_equal_hashes_are_ordered_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.xxhash.xxh3_64_intdigest", lambda _: 5)
    keys = ["b_0", "a_1000", "-_0", "B_0", "a_0"]
    assert make_plan(table_of(keys), 0, 2)["key"].to_pylist() == sorted(keys)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), shard_size=st.integers(1, 45), seed=st.integers(-5, 2**64))
def test_every_segment_is_in_one_shard(rows: int, shard_size: int, seed: int) -> None:
    plan = make_plan(table_of([f"v{row}_0" for row in range(rows)]), seed, shard_size)
    shards = [plan_segments(plan, shard) for shard in range(shard_count(plan))]
    assert [segment.key for shard in shards for segment in shard] == plan["key"].to_pylist()
    assert all(len(shard) == shard_size for shard in shards[:-1])
    assert 1 <= len(shards[-1]) <= shard_size
    for shard in (-1, len(shards)):
        with pytest.raises(IndexError, match=f"from 0 to {len(shards) - 1}, got {shard}"):
            shard_rows(plan, shard)


def test_segments_of_a_shard_of_a_stored_plan(eval_table: pa.Table, tmp_path: Path) -> None:
    plan = make_plan(eval_table, seed=0, shard_size=512)
    pq.write_table(plan, tmp_path / "eval.parquet", row_group_size=1000)
    stored = pq.read_table(tmp_path / "eval.parquet")
    for shard in (0, 1, 39):
        rows = stored.filter(pa.compute.field("shard") == shard).to_pylist()
        wanted = [
            Segment(row["key"], row["ytid"], row["start_ms"], row["end_ms"], tuple(row["mids"]), tuple(row["labels"]))
            for row in rows
        ]
        assert plan_segments(stored, shard) == wanted
    assert shard_count(stored) == 40
    assert len(plan_segments(stored, 39)) == 20_371 - 39 * 512


def test_a_part_of_a_plan_is_refused() -> None:
    plan = make_plan(table_of([f"v{row}_0" for row in range(10)]), 0, 4)
    for part in (plan.slice(1), plan.take([0, 1, 2, 4, 3, 5, 6, 7, 8, 9]), plan.take([4, 5, 6, 7, 0, 1, 2, 3, 8, 9])):
        with pytest.raises(ValueError, match="expected a whole plan in plan order"):
            plan_segments(part, 0)


@pytest.mark.parametrize("shard_size", [0, -1, 2**31])
def test_a_wrong_shard_size_is_refused(shard_size: int) -> None:
    with pytest.raises(ValueError, match=f"expected a shard size from 1 to 2147483647, got {shard_size}"):
        make_plan(table_of(["a_0"]), 0, shard_size)


def test_nothing_to_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one segment to plan, got none"):
        make_plan(SCHEMA.empty_table(), 0, 512)


def test_the_unbalanced_list_is_planned_whole(shared_data: Path) -> None:
    path = shared_data / "unbalanced_train_segments.csv.gz"
    found = read_segments(path, read_class_list())
    plan = make_plan(found.table, seed=0, shard_size=512)
    assert (len(plan), shard_count(plan), found.bad_rows.total) == (2_041_789, 3_988, 0)

    # Every 97th line, parsed here by hand, is in its place by hash: between hashes that are lower and higher.
    with gzip.open(path, "rt") as file:
        lines = [line.rstrip("\n") for number, line in enumerate(file) if number >= 3 and number % 97 == 0]
    position = dict(zip(plan["key"].to_pylist(), range(len(plan)), strict=True))
    assert len(position) == len(plan)
    places = []
    for line in lines:
        ytid, start, end, labels = line.split(", ")
        row = plan.slice(position[f"{ytid}_{round(float(start) * 1000)}"], 1).to_pylist()[0]
        assert (row["ytid"], row["end_ms"]) == (ytid, round(float(end) * 1000))
        assert row["mids"] == labels.strip('"').split(",")
        places.append((xxhash.xxh3_64_intdigest(f"0:{row['key']}".encode()), position[row["key"]]))
    assert [place for _, place in sorted(places)] == sorted(place for _, place in places)
