"""What Prometheus is told adds up to the ledgers. Ray's metrics are replaced by what they were told."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from store_factory import SPLIT, commit_media, make_store

import pipeline.job_metrics
from pipeline.column_shard import ColumnReport
from pipeline.columns import Column
from pipeline.job_metrics import IngestMetrics, Levels
from pipeline.media_shard import MediaReport
from pipeline.splits import stored_split
from pipeline.worklist import survey
from stores.layout import Store

Told = dict[str, dict[tuple[tuple[str, str], ...], float]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """By metric and labels, the value as it is now; for a histogram how often it was told."""
    found: Told = defaultdict(lambda: defaultdict(float))

    class Metric:
        def __init__(self, name: str, tag_keys: tuple[str, ...], **_: Any) -> None:
            self.name = name
            assert tag_keys[0] == "store"

        def set_default_tags(self, tags: dict[str, str]) -> None:
            assert set(tags) == {"store"} and tags["store"]

        def set(self, value: float, tags: dict[str, str] | None = None) -> None:
            found[self.name][tuple(sorted((tags or {}).items()))] = value

        def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
            assert value > 0  # as Ray does
            found[self.name][tuple(sorted((tags or {}).items()))] += value

        def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
            found[self.name][tuple(sorted((tags or {}).items()))] += 1

    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(pipeline.job_metrics, name, Metric)
    return found


def values(found: Told, metric: str, *labels: str) -> dict[Any, float]:
    return {tuple(dict(tags)[label] for label in labels): value for tags, value in found[metric].items() if value}


def test_gauges_are_the_store(told: Told, tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0, 1))
    columns = [Column(store.read_spec(column)) for column in store.columns()]
    metrics = IngestMetrics(store.storage)
    metrics.stand(survey(store, [stored_split(store, SPLIT)], columns), columns)
    assert values(told, "avlens_clips", "status", "cause") == {
        ("fetched", ""): 7,
        ("failed", "gone"): 1,
        ("failed", "gone_here"): 1,
        ("pending", "throttled"): 1,
        ("pending", "untried"): 2,
    }
    assert sum(value for value in told["avlens_clips"].values()) == 12
    assert values(told, "avlens_column_clips", "column", "status") == {
        (column.name, status): count
        for column in columns
        for status, count in (("ok", 5), ("undecodable", 1), ("crashed", 1))
    }
    assert told["avlens_store_room_bytes"][()] > told["avlens_store_free_bytes"][()] > 0
    commit_media(store, 1, fetch=[0, 4])
    metrics.stand(survey(store, [stored_split(store, SPLIT)], columns), columns)
    assert values(told, "avlens_clips", "status", "cause") == {
        ("fetched", ""): 9,
        ("failed", "gone"): 1,
        ("pending", "untried"): 2,
    }  # what is no more is 0, not what it was
    assert values(told, "avlens_column_shards_stale", "column") == {(column.name,): 1 for column in columns}


def summary_of(store: Store, shard: int) -> dict[str, Any]:
    states = survey(store, [stored_split(store, SPLIT)], [])
    assert states[shard].ledger is not None
    return states[shard].ledger


def test_counters_add_up_to_the_ledgers(told: Told, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    metrics = IngestMetrics(store.storage)
    for shard, planned in enumerate((5, 5, 2)):
        report = MediaReport(
            SPLIT, shard, True, summary_of(store, shard), planned, seconds={"fetch": 1.5, "media": 0.5}
        )
        metrics.fetched(report, None, planned)
    outcomes = {("fetched", ""): 9, ("failed", "gone"): 1, ("failed", "gone_here"): 1}
    assert values(told, "avlens_outcomes_total", "status", "cause") == outcomes
    for total in (0, 5, 12, 3, 12):  # the tally was lost once
        metrics.tried(total)
    assert told["avlens_fetches_tried_total"][()] == 12
    assert told["avlens_fetched_bytes_total"][()] == sum(summary_of(store, shard)["traffic"] for shard in range(3))
    before = summary_of(store, 1)
    metrics.fetched(MediaReport(SPLIT, 1, False, before, 1), before, 5)  # a shard that waits has committed nothing
    assert values(told, "avlens_outcomes_total", "status", "cause") == outcomes
    commit_media(store, 1, fetch=[4])
    metrics.fetched(MediaReport(SPLIT, 1, True, summary_of(store, 1), 1), before, 5)
    assert values(told, "avlens_outcomes_total", "status", "cause") == {**outcomes, ("fetched", ""): 10}
    metrics.computed(ColumnReport(SPLIT, 0, {}, decoded=4, seconds={"decode": 2.0}))
    assert told["avlens_clips_decoded_total"][()] == 4
    assert values(told, "avlens_shards_committed_total", "kind") == {("media",): 4, ("columns",): 1}
    assert values(told, "avlens_stage_seconds_total", "stage") == {("fetch",): 4.5, ("media",): 1.5, ("decode",): 2.0}


def test_breakers_and_tasks(told: Told, tmp_path: Path) -> None:
    metrics = IngestMetrics(make_store(tmp_path).storage)
    metrics.under_way({"fetch": 2, "columns": 0}, {"a": "closed", "b": "open", "c": "half_open"})
    assert values(told, "avlens_breaker", "egress") == {("b",): 2, ("c",): 1}
    assert values(told, "avlens_shards_in_flight", "kind") == {("fetch",): 2}


def test_labels_that_are_not_named_any_more_go_to_zero(told: Told) -> None:
    levels = Levels("/store", "x", "", ("a",))
    levels.show({("1",): 5})
    levels.show({("2",): 3})
    assert dict(told["x"]) == {(("a", "1"),): 0, (("a", "2"),): 3}
