"""The plan: a split's segments in their fixed order, cut into shards.

The order is that of a hash of (seed, key), so it depends on the segments, the seed and the shard size only: not on
the order of the CSV's rows, the number of workers, or the version of any library's random generator.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline.segments import SCHEMA, Segment
from stores.tables import PLAN_SCHEMA

HASH_BATCH = 65_536


def make_plan(table: pa.Table, seed: int, shard_size: int) -> pa.Table:
    """Order a `SegmentTable.table` by xxh3_64(f"{seed}:{key}") (ties by key) and number its shards and positions.

    Returns one chunk a column, in `stores.tables.PLAN_SCHEMA`; every shard but the last has `shard_size` rows.

    Raises:
        ValueError: no segments, or a shard size that is not a positive int32.
    """
    if not 1 <= shard_size < 2**31:
        raise ValueError(f"expected a shard size from 1 to {2**31 - 1}, got {shard_size}")
    if not len(table):
        raise ValueError("expected at least one segment to plan, got none")
    hashes = pa.array(_hashes(table["key"], seed))
    order = pc.sort_indices(
        pa.table({"hash": hashes, "key": table["key"]}), [("hash", "ascending"), ("key", "ascending")]
    )
    row = np.arange(len(table), dtype=np.int32)
    plan = table.select(SCHEMA.names).take(order).combine_chunks()
    plan = plan.append_column("shard", pa.array(row // np.int32(shard_size)))
    plan = plan.append_column("position", pa.array(row % np.int32(shard_size)))
    return plan.select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA)


def shard_count(plan: pa.Table) -> int:
    """How many shards the plan has."""
    return plan["shard"][-1].as_py() + 1


def shard_rows(plan: pa.Table, shard: int) -> pa.Table:
    """The rows of one shard, in plan order, without copying.

    Raises:
        IndexError: the plan has no such shard.
        ValueError: the table is not a whole plan in plan order.
    """
    shards = shard_count(plan)
    if not 0 <= shard < shards:
        raise IndexError(f"expected a shard from 0 to {shards - 1}, got {shard}")
    in_last = plan["position"][-1].as_py() + 1
    shard_size = (len(plan) - in_last) // (shards - 1) if shards > 1 else in_last
    rows = plan.slice(shard * shard_size, in_last if shard == shards - 1 else shard_size)
    found = pc.min_max(rows["shard"]).as_py()
    if (shards - 1) * shard_size + in_last != len(plan) or found != {"min": shard, "max": shard}:
        raise ValueError("expected a whole plan in plan order, as make_plan returns it; got rows missing or rearranged")
    return rows


def plan_segments(plan: pa.Table, shard: int) -> list[Segment]:
    """The segments of one shard, in plan order. Raises as `shard_rows` does."""
    columns = (shard_rows(plan, shard)[name].to_pylist() for name in SCHEMA.names)
    return [
        Segment(key, ytid, start_ms, end_ms, tuple(mids), tuple(labels))
        for key, ytid, start_ms, end_ms, mids, labels in zip(*columns, strict=True)
    ]


def _hashes(keys: pa.ChunkedArray, seed: int) -> np.ndarray:
    """xxh3_64 (uint64) of every f"{seed}:{key}", a batch at a time so that few Python strings live at once."""
    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), HASH_BATCH):
        salted = pc.binary_join_element_wise(f"{seed}:", keys.slice(start, HASH_BATCH), "").cast(pa.binary())
        hashes[start : start + len(salted)] = [xxhash.xxh3_64_intdigest(key) for key in salted.to_pylist()]
    return hashes
