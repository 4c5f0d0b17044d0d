"""Compares plan, ledgers and manifests with each other and with what their own summaries say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stores.ledger import FAILED, FETCHED, PENDING, Ledger, LedgerRow, ledger_summary
from stores.manifest import CRASHED, OK, UNDECODABLE, Manifest, ManifestRow, manifest_summary
from stores.shards import BLOCK
from stores.specs import Spec
from stores.text import listed
from stores.verify_tars import PLACES, Problem


@dataclass(frozen=True)
class PlannedShard:
    """What the plan says of one shard: its rows in order (`stores.tables.PLAN_SCHEMA`), the digest of their labels, and
    the plan's class index of every mid."""

    split: str
    shard: int
    rows: Sequence[Mapping[str, Any]]
    labels: str
    classes: Mapping[str, int]

    @property
    def keys(self) -> list[str]:
        """Its keys in order."""
        return [row["key"] for row in self.rows]


def check_plan(name: str, plan: pa.Table, summary: Mapping[str, Any]) -> Iterator[Problem]:
    """The plan as a whole: as many segments as it says, and no key twice."""
    if summary.get("segments") != len(plan):
        yield Problem(name, f"{summary.get('segments')} segments", f"{len(plan)} rows")
    counts = pc.value_counts(plan["key"].combine_chunks())
    for found in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist():
        yield Problem(name, "each key once", f"{found['counts']} rows", found["values"])


def check_planned_shard(name: str, planned: PlannedShard) -> Iterator[Problem]:
    """A shard's rows of the plan: numbered in order, keys made of id and start, labels as the class list has them."""
    for position, row in enumerate(planned.rows):
        place, key = (row["shard"], row["position"]), f"{row['ytid']}_{row['start_ms']}"
        if place != (planned.shard, position):
            yield Problem(name, f"shard {planned.shard}, position {position}", f"{place[0]}, {place[1]}", row["key"])
        if row["key"] != key or "." in key:
            yield Problem(name, f"the key {key!r}, without a dot", repr(row["key"]), row["key"])
        yield from _label_problems(name, row["key"], row["mids"], row["labels"], planned.classes)


def check_ledger(name: str, ledger: Ledger, planned: PlannedShard) -> Iterator[Problem]:
    """A ledger: the plan's keys in order, rows that make sense, and a summary that follows from them."""
    rows = ledger.rows
    yield from _summary_problems(name, ledger.summary, ledger_summary(planned.split, planned.shard, rows, ledger.tars))
    yield from _key_problems(name, [row.key for row in rows], planned.keys)
    counts = Counter(row.status for row in rows)
    if len(planned.rows) != counts[FETCHED] + counts[FAILED] + counts[PENDING]:
        found = " + ".join(f"{status} {counts[status]}" for status in (FETCHED, FAILED, PENDING))
        yield Problem(name, f"planned {len(planned.rows)} = fetched + failed + pending", found)
    for row in rows:
        yield from _ledger_row_problems(name, row, ledger)
    for tar, facts in ledger.tars.items():
        yield from _tar_name_problems(name, planned.shard, {"name": tar, **facts})


def _ledger_row_problems(name: str, row: LedgerRow, ledger: Ledger) -> Iterator[Problem]:
    if row.status not in (FETCHED, FAILED, PENDING):
        yield Problem(name, f"status {FETCHED}, {FAILED} or {PENDING}", repr(row.status), row.key)
    if (row.status == FETCHED) != (row.media_sha256 is not None):
        yield Problem(name, "a media checksum exactly where fetched", f"{row.status}, {row.media_sha256}", row.key)
    if row.status == FAILED and row.cause is None:
        yield Problem(name, "a cause of its failure", "none", row.key)
    if (row.tar is None) != (row.offset is None) or (row.tar is not None and row.tar not in ledger.tars):
        yield Problem(name, "a tar of this ledger, with an offset, or neither", f"{row.tar}, {row.offset}", row.key)


def check_manifest(
    name: str, manifest: Manifest, spec: Spec, planned: PlannedShard, ledger: Ledger | None
) -> Iterator[Problem]:
    """A manifest: rows that fit plan and ledger as far as it is up to date with them, and a summary that follows."""
    rows, summary = manifest.rows, manifest.summary
    tar, sums, labels, noted = (summary.get(field) for field in ("tar", "sums", "labels_digest", "noted"))
    expected = manifest_summary(spec, planned.split, planned.shard, rows, tar, sums, labels, noted)  # type: ignore
    yield from _summary_problems(name, summary, expected)
    keys = [row.key for row in rows]
    known = set(keys)
    yield from _key_problems(name, keys, [key for key in planned.keys if key in known])
    if ledger is None:
        yield Problem(name, "a ledger of this shard, which comes first", "none")
    elif summary.get("input_digest") == ledger.summary.get("input_digest"):
        counts = Counter(row.status for row in rows)
        fetched = [row.key for row in ledger.rows if row.status == FETCHED]
        if len(fetched) != counts[OK] + counts[UNDECODABLE] + counts[CRASHED] or set(fetched) != known:
            found = " + ".join(f"{status} {counts[status]}" for status in (OK, UNDECODABLE, CRASHED))
            yield Problem(name, f"fetched {len(fetched)} = ok + undecodable + crashed", found)
    by_key = {row["key"]: row for row in planned.rows}
    for row in rows:
        yield from _manifest_row_problems(name, row, by_key.get(row.key), planned, summary)
    yield from _place_problems(name, [row for row in rows if row.status == OK])
    if summary.get("tar"):
        yield from _tar_name_problems(name, planned.shard, summary["tar"])
    elif any(row.status == OK for row in rows):
        yield Problem(name, "a tar, for some clips are ok", "none")


def _manifest_row_problems(
    name: str, row: ManifestRow, plan: Mapping[str, Any] | None, planned: PlannedShard, summary: Mapping[str, Any]
) -> Iterator[Problem]:
    if row.status not in (OK, UNDECODABLE, CRASHED):
        yield Problem(name, f"status {OK}, {UNDECODABLE} or {CRASHED}", repr(row.status), row.key)
    placed = [getattr(row, field) is not None for field in (*PLACES, "sample_xxh3")]
    if placed != [row.status == OK] * len(placed):
        yield Problem(name, "a place in the tar exactly where ok", f"{row.status}, {sum(placed)} of 7 fields", row.key)
    yield from _label_problems(name, row.key, row.mids, row.labels, planned.classes)
    if plan is None:
        return
    fields = ["ytid", "start_ms", "end_ms"]
    if summary.get("labels_digest") == planned.labels:
        fields += ["mids", "labels"]
    for field in fields:
        if getattr(row, field) != plan[field]:
            yield Problem(name, f"{field} {plan[field]!r} as planned", repr(getattr(row, field)), row.key)


def _place_problems(name: str, rows: Sequence[ManifestRow]) -> Iterator[Problem]:
    """Fixed stride: sample i at i strides, and everything in it where it is in every other sample."""
    placed = [row for row in rows if all(getattr(row, field) is not None for field in PLACES)]
    forms = {tuple(_form(row).items()): row for row in reversed(placed)}
    if len(forms) > 1:
        found = listed([f"{row.key} {dict(form)}" for form, row in forms.items()], most=2)
        yield Problem(name, "samples that are laid out alike", found)
    for index, row in enumerate(placed):
        assert row.sample_bytes is not None
        if row.sample_offset != index * row.sample_bytes or row.sample_bytes % BLOCK or row.sample_bytes <= 0:
            expected = f"sample {index} at {index} strides of {row.sample_bytes} bytes"
            yield Problem(name, expected, f"at {row.sample_offset}", row.key)


def _form(row: ManifestRow) -> dict[str, int]:
    """A sample's layout, counted from its own start."""
    start = row.sample_offset
    return {name: getattr(row, name) - (start if name.endswith("offset") else 0) for name in PLACES[1:]}


def _summary_problems(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[Problem]:
    for field, value in expected.items():
        if found.get(field) != value:
            yield Problem(name, f"{field} {value!r} in its summary", repr(found.get(field))[:200])


def _key_problems(name: str, found: Sequence[str], expected: Sequence[str]) -> Iterator[Problem]:
    counts, wanted = Counter(found), set(expected)
    twice = [key for key, count in counts.items() if count > 1]
    foreign = [key for key in found if key not in wanted]
    missing = [key for key in expected if key not in counts]
    if twice:
        yield Problem(name, "each key once", f"again {listed(twice)}")
    if foreign:
        yield Problem(name, "keys that are planned in this shard", f"{len(foreign)} others: {listed(foreign)}")
    if missing:
        yield Problem(name, f"a row for each of {len(expected)} planned keys", f"none for {listed(missing)}")
    if not (twice or foreign or missing) and list(found) != list(expected):
        yield Problem(name, "rows in plan order", listed(list(found)))


def _label_problems(
    name: str, key: str, mids: Sequence[str], labels: Sequence[int], classes: Mapping[str, int]
) -> Iterator[Problem]:
    expected = [classes.get(mid) for mid in mids]
    if expected != list(labels):
        yield Problem(name, f"class indices {expected} of {', '.join(mids)}", str(list(labels)), key)


def _tar_name_problems(name: str, shard: int, tar: Mapping[str, Any]) -> Iterator[Problem]:
    expected = f"{shard:05d}.{str(tar['sha256'])[:8]}.tar"
    if tar["name"] != expected:
        yield Problem(name, f"a tar named {expected}, after its shard and content", str(tar["name"]))
