"""What follows from a plan: label digests that change with a label and with nothing else."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from store_factory import CLASSES, make_plan

from stores.plans import class_names, labels_digests


def by_hand(plan: pa.Table, shard_size: int) -> list[str]:
    rows = plan.to_pylist()
    lines = [f"{r['key']} {','.join(r['mids'])} {','.join(map(str, r['labels']))}" for r in rows]
    shards = [lines[start : start + shard_size] for start in range(0, len(lines), shard_size)]
    return [hashlib.sha256("\n".join(shard).encode()).hexdigest() for shard in shards]


@pytest.mark.parametrize("shard_size", [1, 5, 12, 100])
def test_a_digest_a_shard_however_the_table_is_chunked(shard_size: int) -> None:
    plan = make_plan()
    chunked = pa.concat_tables([plan.slice(0, 3), plan.slice(3, 4), plan.slice(7)])
    expected = by_hand(plan, shard_size)
    assert len(expected) == -(-12 // shard_size)
    assert list(labels_digests(plan, shard_size)) == expected == list(labels_digests(chunked, shard_size))


def test_a_part_of_a_plan_gives_the_digests_of_its_shards() -> None:
    plan = make_plan()
    assert labels_digests(plan.slice(5, 5), 5)[0] == labels_digests(plan, 5)[1]


def test_only_the_shard_of_a_corrected_label_changes() -> None:
    plan = make_plan()
    rows = plan.to_pylist()
    rows[6]["labels"], rows[6]["mids"] = [7], [CLASSES[7][0]]
    before, after = labels_digests(plan, 5), labels_digests(pa.Table.from_pylist(rows, plan.schema), 5)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_classes_in_index_order_and_none_without_a_list() -> None:
    assert class_names({"classes": [["/m/1", "One"], ["/m/2", "Two"]]}) == [("/m/1", "One"), ("/m/2", "Two")]
    assert class_names({}) == []
