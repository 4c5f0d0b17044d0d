"""Which clips a run is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_factory import CLASSES, make_plan

from pipeline.plan import plan_segments
from pipeline.selection import Selection, read_keys

PLAN = make_plan()
KEYS = [row["key"] for row in PLAN.to_pylist()]


def test_nothing_chosen_is_everything() -> None:
    chosen = Selection()
    assert chosen.everything and chosen.shards(PLAN) is None and chosen.positions(plan_segments(PLAN, 0)) is None
    assert not Selection(frozenset()).everything


def test_clips_of_a_list() -> None:
    chosen = Selection(frozenset({KEYS[1], KEYS[11], "other_0"}))
    assert chosen.shards(PLAN) == {0, 2}
    assert [chosen.positions(plan_segments(PLAN, shard)) for shard in range(3)] == [{1}, set(), {1}]


def test_clips_of_classes_and_of_a_list_beside_them() -> None:
    mid = CLASSES[3][0]
    rows = [row for row in PLAN.to_pylist() if mid in row["mids"]]
    chosen = Selection(mids=frozenset({mid, "/m/none"}))
    assert 0 < len(rows) < 12 and chosen.shards(PLAN) == {row["shard"] for row in rows}
    for shard in range(3):
        expected = {row["position"] for row in rows if row["shard"] == shard}
        assert chosen.positions(plan_segments(PLAN, shard)) == expected
    other = next(row for row in PLAN.to_pylist() if mid not in row["mids"])
    both = Selection(frozenset({other["key"]}), chosen.mids)
    assert both.positions(plan_segments(PLAN, other["shard"])) == {
        other["position"],
        *(chosen.positions(plan_segments(PLAN, other["shard"])) or ()),
    }


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# some\n{KEYS[0]}\n\neval\t{KEYS[2]}\tmedia\tfailed\tgone\n{KEYS[3]},more\n")
    assert read_keys(str(path)) == {KEYS[0], KEYS[2], KEYS[3]}
    path.write_text(f"train_2024\t{KEYS[2]}\tmedia\tfailed\tgone\n")  # a split's name may look like a key
    assert KEYS[2] in read_keys(str(path))
    for text, words in (
        ("", "found none"),
        ("# x\n", "found none"),
        ("hello\n", "line 1"),
        (f"{KEYS[0]}\n<b>\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_keys(str(path))


def test_keys_that_nobody_planned_are_told(tmp_path: Path) -> None:
    plan = make_plan()
    key = plan["key"][0].as_py()
    assert Selection(frozenset({key, "slip_0"})).unplanned([plan]) == {"slip_0"}
    assert Selection().unplanned([plan]) == set()
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="keys: expected text"):
        read_keys(str(tmp_path / "keys"))
