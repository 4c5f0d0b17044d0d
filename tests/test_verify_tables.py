"""Plan, ledger and manifest against each other: every invariant, broken one at a time, is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from store_factory import CLASSES, LOGMEL, SPLIT, commit_media, make_plan, make_store

from stores.ledger import Ledger, LedgerRow, ledger_summary, read_ledger
from stores.manifest import Manifest, ManifestRow, manifest_summary, read_manifest
from stores.plans import labels_digests
from stores.verify_tables import PlannedShard, check_ledger, check_manifest, check_plan, check_planned_shard
from stores.verify_tars import Problem

CLASS_INDEX = {mid: index for index, (mid, _) in enumerate(CLASSES)}
PLAN = make_plan()
KEYS = [row["key"] for row in PLAN.to_pylist()]


def planned_shard(shard: int, plan: pa.Table = PLAN) -> PlannedShard:
    return PlannedShard(SPLIT, shard, plan.slice(shard * 5, 5).to_pylist(), labels_digests(PLAN, 5)[shard], CLASS_INDEX)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ledger, Manifest]:
    """Ledger and manifest of shard 1: two fetched and ok, one crashed, one failed, one pending."""
    store = make_store(tmp_path_factory.mktemp("store"), columns=(LOGMEL,))
    ledger, manifest = read_ledger(store, SPLIT, 1), read_manifest(store, LOGMEL.column, SPLIT, 1)
    assert ledger is not None and manifest is not None
    return ledger, manifest


def ledger_problems(ledger: Ledger, rows: Sequence[LedgerRow], *, resummed: bool = True) -> list[Problem]:
    """What is said of the ledger with other rows; with `resummed` its summary is that of these rows."""
    summary = ledger_summary(SPLIT, 1, rows, ledger.tars) if resummed else ledger.summary
    return list(check_ledger("l", replace(ledger, rows=tuple(rows), summary=summary), planned_shard(1)))


def manifest_problems(
    committed: tuple[Ledger, Manifest], rows: Sequence[ManifestRow], *, resummed: bool = True, **summary: Any
) -> list[Problem]:
    ledger, manifest = committed
    old = manifest.summary
    kept = (old["tar"], old["sums"], old["labels_digest"], old["noted"])
    new = manifest_summary(LOGMEL, SPLIT, 1, rows, *kept) if resummed else old
    changed = Manifest(tuple(rows), {**new, **summary})
    return list(check_manifest("m", changed, LOGMEL, planned_shard(1), ledger))


def test_sound_tables_have_no_problem(committed: tuple[Ledger, Manifest]) -> None:
    ledger, manifest = committed
    assert ledger_problems(ledger, ledger.rows, resummed=False) == []
    assert manifest_problems(committed, manifest.rows, resummed=False) == []
    assert list(check_plan("p", PLAN, {"segments": 12})) == []
    assert [p for shard in range(3) for p in check_planned_shard("p", planned_shard(shard))] == []


def test_a_key_twice_in_the_plan_across_shards() -> None:
    rows = PLAN.to_pylist()
    rows[11] = {**rows[0], "shard": 2, "position": 1}
    found = list(check_plan("p", pa.Table.from_pylist(rows, PLAN.schema), {"segments": 13}))
    assert [(p.key, p.expected, p.found) for p in found] == [
        (None, "13 segments", "12 rows"),
        (KEYS[0], "each key once", "2 rows"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"position": 3}, "shard 1, position 1"),
        ({"shard": 0}, "shard 1, position 1"),
        ({"start_ms": 7}, "the key 'clip0000000_7'"),
        ({"key": "a.b_20000", "ytid": "a.b"}, "the key 'a.b_20000', without a dot"),
        ({"labels": [3]}, "class indices [2] of /m/0bt9lr"),
        ({"mids": ["/m/none"], "labels": [1]}, "class indices [None]"),
    ],
)
def test_rows_of_the_plan(change: dict[str, Any], expected: str) -> None:
    rows = PLAN.to_pylist()
    rows[6].update(change)
    found = list(check_planned_shard("p", planned_shard(1, pa.Table.from_pylist(rows, PLAN.schema))))
    assert len(found) == 1
    assert found[0].expected.startswith(expected)
    assert found[0].key == rows[6]["key"]


LedgerChange = Callable[[list[LedgerRow]], object]
LEDGER_DAMAGE: dict[str, LedgerChange] = {
    "keys that are planned": lambda rows: rows.__setitem__(0, replace(rows[0], key="other_0")),
    "planned 5 = fetched + failed + pending": lambda rows: rows.pop(),
    "each key once": lambda rows: rows.__setitem__(0, replace(rows[0], key=rows[1].key)),
    "rows in plan order": lambda rows: rows.reverse(),
    "status fetched, failed or pending": lambda rows: rows.__setitem__(0, replace(rows[0], status="lost")),
    "a media checksum": lambda rows: rows.__setitem__(1, replace(rows[1], media_sha256=None)),
    "a cause": lambda rows: rows.__setitem__(0, replace(rows[0], cause=None)),
    "a tar of this ledger": lambda rows: rows.__setitem__(1, replace(rows[1], tar="00001.00000000.tar")),
    "a tar of this ledger, ": lambda rows: rows.__setitem__(1, replace(rows[1], offset=None)),
}


@pytest.mark.parametrize("expected", LEDGER_DAMAGE)
def test_rows_of_a_ledger(committed: tuple[Ledger, Manifest], expected: str) -> None:
    rows = list(committed[0].rows)
    LEDGER_DAMAGE[expected](rows)
    found = ledger_problems(committed[0], rows, resummed="cause" not in expected)
    assert any(p.expected.startswith(expected) for p in found), found


def test_a_ledgers_summary_follows_from_its_rows(committed: tuple[Ledger, Manifest]) -> None:
    ledger = committed[0]
    rows = [replace(row, status="pending", cause="throttled") if row.status == "failed" else row for row in ledger.rows]
    fields = {p.expected.split()[0] for p in ledger_problems(ledger, rows, resummed=False)}
    assert fields == {"failed", "pending", "next_attempt"}


def test_tars_are_named_after_shard_and_content(committed: tuple[Ledger, Manifest]) -> None:
    ledger, manifest = committed
    ((name, facts),) = ledger.tars.items()
    renamed = replace(ledger, tars={name.replace("00001", "00002"): facts})
    assert any(p.expected.startswith(f"a tar named {name}") for p in check_ledger("l", renamed, planned_shard(1)))
    tar = {**manifest.summary["tar"], "name": "00001.tar"}
    assert any(p.found == "00001.tar" for p in manifest_problems(committed, manifest.rows, tar=tar))


ManifestChange = Callable[[list[ManifestRow]], object]
MANIFEST_DAMAGE: dict[str, ManifestChange] = {
    "keys that are planned": lambda rows: rows.__setitem__(0, replace(rows[0], key="other_0")),
    "each key once": lambda rows: rows.append(rows[0]),
    "rows in plan order": lambda rows: rows.reverse(),
    "status ok, undecodable or crashed": lambda rows: rows.__setitem__(1, replace(rows[1], status="bad")),
    "a place in the tar": lambda rows: rows.__setitem__(0, replace(rows[0], status="crashed")),
    "a place in the tar exactly": lambda rows: rows.__setitem__(0, replace(rows[0], sample_xxh3=None)),
    "ytid": lambda rows: rows.__setitem__(0, replace(rows[0], ytid="other")),
    "end_ms 30000": lambda rows: rows.__setitem__(0, replace(rows[0], end_ms=1)),
    "class indices": lambda rows: rows.__setitem__(0, replace(rows[0], labels=[1])),
    "labels": lambda rows: rows.__setitem__(0, replace(rows[0], labels=[1], mids=[CLASSES[1][0]])),
    "samples that are laid out alike": lambda rows: rows.__setitem__(2, replace(rows[2], json_bytes=1024)),
    "sample 1 at 1 strides": lambda rows: rows.__setitem__(2, replace(rows[2], sample_offset=512)),
}


@pytest.mark.parametrize("expected", MANIFEST_DAMAGE)
def test_rows_of_a_manifest(committed: tuple[Ledger, Manifest], expected: str) -> None:
    rows = list(committed[1].rows)
    MANIFEST_DAMAGE[expected](rows)
    found = manifest_problems(committed, rows)
    assert any(p.expected.startswith(expected) for p in found), found


def test_a_manifests_summary_follows_from_its_rows_and_spec(committed: tuple[Ledger, Manifest]) -> None:
    rows = committed[1].rows
    for change in (
        {"counts": {"ok": 3, "undecodable": 0, "crashed": 0}},
        {"stride": 512},
        {"spec_digest": "00000000"},
        {"shape": [64, 400]},
        {"column": "logmel-00000000"},
        {"samples": 3},
        {"input_digest": "0" * 64},
    ):
        (name,) = change
        assert [p.expected.split()[0] for p in manifest_problems(committed, rows, **change)] == [name]


def test_a_fetched_clip_without_a_row(committed: tuple[Ledger, Manifest]) -> None:
    rows = [row for row in committed[1].rows if row.status == "ok"]
    found = manifest_problems(committed, rows, input_digest=committed[0].summary["input_digest"])
    assert any(p.expected == "fetched 3 = ok + undecodable + crashed" for p in found)
    # A manifest that says itself that it is of other media is stale, and no problem.
    assert manifest_problems(committed, rows) == []


def test_samples_without_a_tar_and_a_manifest_without_a_ledger(committed: tuple[Ledger, Manifest]) -> None:
    _, manifest = committed
    found = manifest_problems(committed, manifest.rows, tar=None)
    assert any(p.expected.startswith("a tar, for") for p in found)
    found = list(check_manifest("m", manifest, LOGMEL, planned_shard(1), None))
    assert [p.expected for p in found] == ["a ledger of this shard, which comes first"]


def test_a_supplemented_ledger_names_two_tars(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    commit_media(store, 1, fetch=[4])
    ledger = read_ledger(store, SPLIT, 1)
    assert ledger is not None
    assert len(ledger.tars) == 2
    assert list(check_ledger("l", ledger, planned_shard(1))) == []
