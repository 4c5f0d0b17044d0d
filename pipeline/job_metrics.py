"""What an ingest tells Prometheus, through Ray's metrics: how the store stands, and what was done.

Ray puts `ray_` before each name and exports them on every node's metrics port. Gauges say how the store is, so they add
up to the ledgers whatever was restarted; counters begin at 0 with each run, as Prometheus expects of them. All of them
have the label `store`. Ray goes on exporting an ended driver's gauges for some minutes, so that a restarted ingest has
two series of each: take `max by (store, …)` before any sum.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from pipeline.column_shard import ColumnReport
from pipeline.columns import Column
from pipeline.failures import Cause
from pipeline.media_shard import MediaReport
from pipeline.worklist import ShardState
from stores.ledger import FAILED, FETCHED, PENDING
from stores.storage import Storage

Kind = TypeVar("Kind", bound=Metric)
BREAKER = {"closed": 0, "half_open": 1, "open": 2}
SHARD_SECONDS = [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0]


class Levels:
    """A gauge with labels: those that are not named any more go to 0 instead of staying as they were."""

    def __init__(self, store: str, name: str, description: str, labels: tuple[str, ...]) -> None:
        self._labels, self._known = labels, set[tuple[str, ...]]()
        self._gauge = Gauge(name, description=description, tag_keys=("store", *labels))
        self._gauge.set_default_tags({"store": store})

    def show(self, values: Mapping[tuple[str, ...], float]) -> None:
        """Sets every value by its labels."""
        for labels in {*self._known, *values}:
            self._gauge.set(values.get(labels, 0), tags=dict(zip(self._labels, labels, strict=True)))
        self._known |= set(values)


class IngestMetrics:
    """The metrics of one run, kept by its driver."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._clips = Levels(
            store.uri, "avlens_clips", "Planned clips by what became of them", ("split", "status", "cause")
        )
        self._features = Levels(store.uri, "avlens_column_clips", "Fetched clips by column", ("column", "status"))
        self._stale = Levels(
            store.uri, "avlens_column_shards_stale", "Column shards that are not up to date", ("column",)
        )
        self._running = Levels(store.uri, "avlens_shards_in_flight", "Shards under way", ("kind",))
        self._breakers = Levels(store.uri, "avlens_breaker", "0 closed, 1 half open, 2 open", ("egress",))
        self._free = self._metric(Gauge, "avlens_store_free_bytes", "Room on the store's disk")
        self._room = self._metric(Gauge, "avlens_store_room_bytes", "Size of the store's disk")
        self._last = self._metric(Gauge, "avlens_last_commit_seconds", "When a shard was committed last, Unix time")
        self._last.set(time.time())  # nothing yet, but from now on it is waited for
        self._tried_before = 0
        self._commits = self._metric(Counter, "avlens_shards_committed_total", "Commits", "kind")
        self._tried = self._metric(Counter, "avlens_fetches_tried_total", "Clips that a source was asked for")
        self._traffic = self._metric(Counter, "avlens_fetched_bytes_total", "Bytes of committed media over the network")
        self._outcomes = self._metric(
            Counter, "avlens_outcomes_total", "Clips whose outcome was committed in this run", "status", "cause"
        )
        self._decoded = self._metric(Counter, "avlens_clips_decoded_total", "Clips decoded")
        self._seconds = self._metric(
            Counter, "avlens_stage_seconds_total", "Seconds by stage, summed over shards", "stage"
        )
        self._shard_seconds = self._metric(
            Histogram, "avlens_shard_seconds", "Seconds of a shard's task", "kind", boundaries=SHARD_SECONDS
        )

    def _metric(self, kind: type[Kind], name: str, description: str, *labels: str, **more: Any) -> Kind:
        metric = kind(name, description=description, tag_keys=("store", *labels), **more)
        metric.set_default_tags({"store": self._store.uri})
        return metric

    def stand(self, states: Sequence[ShardState], columns: Sequence[Column]) -> None:
        """Shows how the store stands."""
        # What an alert looks at is there before it happens: a series that begins above 0 has no increase.
        clips: Counts[tuple[str, ...]] = Counts({(state.split, FAILED, str(Cause.CRASHED)): 0 for state in states})
        for state in states:
            clips.update(_outcomes(state.split, state.ledger, state.planned))
        self._clips.show(clips)
        features: Counts[tuple[str, ...]] = Counts()
        stale: Counts[tuple[str, ...]] = Counts({(column.name,): 0 for column in columns})
        for state in states:
            for column in state.stale(columns):
                stale[(column.name,)] += 1
            for column in columns:
                counts = state.manifests[column.name]["counts"] if column.name in state.manifests else {}
                features.update({(column.name, status): count for status, count in counts.items()})
        self._features.show(features)
        self._stale.show(stale)
        if self._store.is_local:
            room = shutil.disk_usage(self._store.root)
            self._free.set(room.free)
            self._room.set(room.total)

    def under_way(self, counts: Mapping[str, int], breakers: Mapping[str, str]) -> None:
        """Shows what runs, by kind, and the breakers by egress."""
        self._running.show({(kind,): count for kind, count in counts.items()})
        self._breakers.show({(egress,): BREAKER.get(state, 2) for egress, state in breakers.items()})

    def tried(self, total: int) -> None:
        """Counts up to so many clips that were asked for in this run; fewer than before is a tally that was lost."""
        self._add(self._tried, total - self._tried_before)
        self._tried_before = max(total, self._tried_before)

    def fetched(self, report: MediaReport, before: Mapping[str, Any] | None, planned: int) -> None:
        """Counts what a fetch task did.

        Args:
            before: the ledger's summary before it; None where there was none.
            planned: clips of the shard.
        """
        self._stages("fetch", report.seconds)
        if not report.committed:
            return
        self._committed("media")
        self._add(self._traffic, report.summary["traffic"] - (before["traffic"] if before else 0))
        old = Counts(_outcomes("", before, planned))
        for (_, status, cause), count in (Counts(_outcomes("", report.summary, planned)) - old).items():
            if status != PENDING:
                self._outcomes.inc(count, tags={"status": status, "cause": cause})

    def computed(self, report: ColumnReport) -> None:
        """Counts what a column task did."""
        self._add(self._decoded, report.decoded)
        self._stages("columns", report.seconds)
        self._committed("columns")

    def _committed(self, kind: str) -> None:
        self._commits.inc(1, tags={"kind": kind})
        self._last.set(time.time())

    def _stages(self, kind: str, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self._add(self._seconds, value, stage=stage)
        self._shard_seconds.observe(sum(seconds.values()), tags={"kind": kind})

    @staticmethod
    def _add(counter: Counter, value: float, **labels: str) -> None:
        if value > 0:  # Ray refuses to count nothing
            counter.inc(value, tags=labels)


def _outcomes(split: str, ledger: Mapping[str, Any] | None, planned: int) -> dict[tuple[str, ...], int]:
    """Clips of a shard by split, status and cause."""
    if ledger is None:
        return {(split, PENDING, "untried"): planned}
    found: dict[tuple[str, ...], int] = {(split, FETCHED, ""): ledger[FETCHED]}
    for status in (FAILED, PENDING):
        found |= {(split, status, cause): count for cause, count in ledger[status].items()}
    return found
