"""Ledgers: every planned segment has one row, counts add up, and only the first of two writers commits."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stores.layout import Store
from stores.ledger import LedgerRow, commit_ledger, input_digest, ledger_summary, read_ledger
from stores.storage import ABSENT, Conflict, StorageError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
FETCHED = LedgerRow(
    0, "-a_b_0", "fetched", attempts=1, first_attempt=NOW, last_attempt=NOW, media_sha256="ab", media_bytes=9, traffic=9
)
GONE = LedgerRow(1, "B_1000", "failed", cause="gone", words="HTTP status 404", attempts=1)
LATER = LedgerRow(2, "b_1000", "pending", cause="throttled", attempts=3, not_before=NOW + timedelta(hours=1))
UNTRIED = LedgerRow(3, "c_0")
ROWS = [FETCHED, GONE, LATER, UNTRIED]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(str(tmp_path / "store"), shard_size=4)


def test_what_was_committed_is_read_back(store: Store) -> None:
    commit_ledger(store, "eval", 7, ROWS, {"t.tar": {"size": 1, "sha256": "x"}}, ABSENT)
    ledger = read_ledger(store, "eval", 7)
    assert ledger is not None
    assert list(ledger.rows) == ROWS
    assert ledger.tars == {"t.tar": {"size": 1, "sha256": "x"}}
    assert read_ledger(store, "eval", 8) is None


def test_pyarrow_alone_reads_it(store: Store) -> None:
    commit_ledger(store, "eval", 0, ROWS, {}, ABSENT)
    table = pq.read_table(io.BytesIO(store.storage.read("media/eval/00000.parquet")))
    assert table["key"].to_pylist() == ["-a_b_0", "B_1000", "b_1000", "c_0"]
    assert table["not_before"].to_pylist()[2] == NOW + timedelta(hours=1)


def test_summary_adds_up_and_knows_what_is_due_first() -> None:
    summary = ledger_summary("eval", 0, ROWS, {})
    assert (
        summary["planned"]
        == 4
        == summary["fetched"] + sum(summary["failed"].values()) + sum(summary["pending"].values())
    )
    assert summary["failed"] == {"gone": 1}
    assert summary["pending"] == {"throttled": 1, "untried": 1}
    assert summary["next_attempt"] == "1970-01-01T00:00:00+00:00"  # the untried one
    assert ledger_summary("eval", 0, ROWS[:3], {})["next_attempt"] == (NOW + timedelta(hours=1)).isoformat()
    assert ledger_summary("eval", 0, ROWS[:2], {})["next_attempt"] is None


def test_pending_rows_are_due_only_when_their_time_has_come() -> None:
    assert UNTRIED.is_due(NOW)
    assert not LATER.is_due(NOW)
    assert LATER.is_due(NOW + timedelta(hours=1))
    assert not FETCHED.is_due(NOW)
    assert not GONE.is_due(NOW)


def test_input_digest_names_keys_media_and_start_but_not_their_order() -> None:
    rows = [("a", "1", 0), ("b", "2", None)]
    assert input_digest(rows) == input_digest(reversed(rows))
    for other in ([("a", "1", 0)], [("a", "1", 5), ("b", "2", None)], [("a", "3", 0), ("b", "2", None)]):
        assert input_digest(other) != input_digest(rows)


def test_the_second_of_two_writers_is_refused_and_may_read_and_go_on(store: Store) -> None:
    commit_ledger(store, "eval", 0, ROWS, {}, ABSENT)
    with pytest.raises(Conflict):
        commit_ledger(store, "eval", 0, [replace(r, words="mine") for r in ROWS], {}, ABSENT)
    ledger = read_ledger(store, "eval", 0)
    assert ledger is not None
    newer = [*ROWS[:3], replace(UNTRIED, attempts=1, cause="unreachable")]
    commit_ledger(store, "eval", 0, newer, {}, ledger.version)
    with pytest.raises(Conflict):
        commit_ledger(store, "eval", 0, ROWS, {}, ledger.version)
    assert list(read_ledger(store, "eval", 0).rows) == newer  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "rows",
    [
        [FETCHED, replace(GONE, key=FETCHED.key)],
        [FETCHED, replace(GONE, position=2)],
        [replace(FETCHED, media_sha256=None)],
        [replace(GONE, position=0, cause=None)],
        [replace(GONE, position=0, status="lost")],
    ],
    ids=["key twice", "hole", "fetched without media", "failed without cause", "unknown status"],
)
def test_a_ledger_that_does_not_add_up_is_never_written(store: Store, rows: list[LedgerRow]) -> None:
    with pytest.raises(ValueError):
        commit_ledger(store, "eval", 0, rows, {}, ABSENT)
    assert read_ledger(store, "eval", 0) is None


def test_a_damaged_ledger_is_named(store: Store) -> None:
    store.storage.publish("media/eval/00000.parquet", b"PAR1 not really")
    with pytest.raises(StorageError, match="media/eval/00000.parquet"):
        read_ledger(store, "eval", 0)
