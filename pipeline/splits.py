"""The splits of one ingest: each one's plan, made from its CSV or found in the store, and its shards' label digests."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pyarrow as pa

from pipeline.classes import ClassList
from pipeline.plan import make_plan, plan_segments, shard_count
from pipeline.segments import Segment, SegmentTable
from stores.layout import Store, StoreError
from stores.plans import DIGESTS, digests_of
from stores.summaries import FORMAT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A planned split.

    Attributes:
        name: of the split.
        plan: rows of `stores.tables.PLAN_SCHEMA` in shard order.
        shards: how many shards it has.
        labels_digests: by shard, the digest of its clips' keys, mids and class indices.
    """

    name: str
    plan: pa.Table
    shards: int
    labels_digests: tuple[str, ...]

    def segments(self, shard: int) -> list[Segment]:
        """A shard's planned segments, in order."""
        return plan_segments(self.plan, shard)


def plan_split(store: Store, name: str, listed: SegmentTable, classes: ClassList) -> Split:
    """The split's plan: the stored one if it was made from this list, else a new one, which is stored.

    A list with the same segments and other labels replaces the plan: columns then rewrite their json.

    Raises:
        StoreError: the store has a split of this name with other segments.
    """
    size, seed = store.config.shard_size, store.config.seed
    summary = {
        "format": FORMAT,
        "split": name,
        "csv_sha256": listed.csv_sha256,
        "segments": len(listed.table),
        "bad_rows": dict(sorted(listed.bad_rows.counts.items())),
        "seed": seed,
        "shard_size": size,
        "classes_sha256": classes.sha256,
        "classes": [[mid, label] for mid, label in zip(classes.mids, classes.names, strict=True)],
    }
    plan = make_plan(listed.table, seed, size)
    if store.plan_summary(name) is None:
        digests = store.write_plan(name, plan, summary)
    else:
        stored, before = store.read_plan(name)
        digests = digests_of(stored, before, size)
        before.pop(DIGESTS, None)
        if (before.get("seed"), before.get("shard_size")) != (seed, size):
            raise StoreError(
                f"split {name!r} of {store.storage.uri} was planned with seed {before.get('seed')} and shards of "
                f"{before.get('shard_size')}, and its store.json now says {seed} and {size}: restore that file"
            )
        # A summary is compared as JSON: that is what it was stored as.
        if before != json.loads(json.dumps(summary)):
            digests = _replace_labels(store, name, stored, plan, summary, digests)
    return _split(name, plan, digests)


def stored_split(store: Store, name: str) -> Split:
    """A split as it is planned. Raises StoreError naming the splits there are."""
    plan, summary = store.read_plan(name)
    return _split(name, plan, digests_of(plan, summary, store.config.shard_size))


def _split(name: str, plan: pa.Table, digests: tuple[str, ...]) -> Split:
    pa.default_memory_pool().release_unused()  # the digests of two million rows took 200 MB, and a run takes weeks
    return Split(name, plan, shard_count(plan), digests)


def _replace_labels(
    store: Store, name: str, stored: pa.Table, plan: pa.Table, summary: dict[str, object], before: tuple[str, ...]
) -> tuple[str, ...]:
    same = all(stored.column(c).to_pylist() == plan.column(c).to_pylist() for c in ("key", "start_ms", "end_ms"))
    if not same:
        raise StoreError(
            f"split {name!r} of {store.storage.uri} was planned from other segments ({len(stored)} there, {len(plan)} "
            "here): give this list another name with --segments OTHER=PATH, or use another store"
        )
    digests = store.write_plan(name, plan, summary)
    changed = sum(old != new for old, new in zip(before, digests, strict=True))
    if changed:
        logger.warning(
            "split %s: this list has other labels than the last one in %d of %d shards, whose json is written anew; an "
            "older list undoes corrections",
            name,
            changed,
            len(digests),
        )
    return digests
