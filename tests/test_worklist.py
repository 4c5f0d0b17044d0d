"""What is left to do: nothing that is done, nothing before its time, everything else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from store_factory import make_store

from pipeline.columns import Column
from pipeline.failures import Cause
from pipeline.segments import Segment
from pipeline.splits import Split
from pipeline.worklist import ShardState, survey
from stores.plans import labels_digests

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def state(**ledger: object) -> ShardState:
    made = ShardState("eval", 0, 4, "l")
    made.ledger = {"failed": {}, "next_attempt": None, **ledger}
    return made


def test_when_a_shard_is_to_be_fetched() -> None:
    later = NOW + timedelta(hours=1)
    nothing: frozenset[Cause] = frozenset()
    assert ShardState("eval", 0, 4, "l").fetch_due(NOW, nothing) == NOW
    assert state().fetch_due(NOW, nothing) is None
    assert state(next_attempt=later.isoformat()).fetch_due(NOW, nothing) == later
    assert state(failed={"gone": 2}).fetch_due(NOW, nothing) is None
    assert state(failed={"gone": 2}).fetch_due(NOW, frozenset({Cause.GONE})) == NOW
    assert state(failed={"gone": 2}).fetch_due(NOW, frozenset({Cause.UNREACHABLE})) is None


def test_a_real_store_is_surveyed_shard_by_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    name = store.splits()[0]
    plan, _ = store.read_plan(name)
    digests = tuple(labels_digests(plan, store.config.shard_size))
    split = Split(name, plan, len(digests), digests)
    columns = [Column(store.read_spec(column)) for column in store.columns()]
    states = survey(store, [split], columns)
    assert [s.shard for s in states] == list(range(len(digests)))
    assert sum(s.planned for s in states) == len(plan)
    begun = [s for s in states if s.ledger is not None]
    assert begun
    for s in begun:
        assert s.planned == s.ledger["planned"]
        for column in columns:
            assert (column in s.stale(columns)) == (not s.is_current(column.name, column.spec.digest))
    assert isinstance(split.segments(0)[0], Segment)
