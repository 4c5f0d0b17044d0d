"""The spool: outcomes survive, the latest counts, damage is named."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stores.layout import Store
from stores.ledger import LedgerRow
from stores.shards import pack
from stores.spool import Spool
from stores.storage import StorageError

ROW = LedgerRow(
    3, "-aB_0", "fetched", attempts=1, extension="mp4", media_sha256="x", first_attempt=datetime(2026, 1, 2, tzinfo=UTC)
)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(Store.open_or_create(str(tmp_path / "store")), "eval", 12)


def test_rows_and_media_come_back(spool: Spool) -> None:
    spool.put(ROW, b"media")
    spool.put(replace(ROW, position=4, key="-ab_0", status="failed", cause="gone", media_sha256=None), None)
    assert spool.rows()[3] == ROW
    assert spool.rows()[4].cause == "gone"
    assert spool.media(3) == b"media"
    assert spool.positions() == {3, 4}
    with pytest.raises(StorageError, match="no media"):
        spool.media(4)


def test_a_later_outcome_replaces_the_earlier(spool: Spool) -> None:
    spool.put(replace(ROW, status="pending", media_sha256=None), None)
    spool.put(replace(ROW, attempts=2), b"now")
    assert spool.rows() == {3: replace(ROW, attempts=2)}
    assert spool.media(3) == b"now"


def test_it_is_empty_before_and_after(spool: Spool) -> None:
    assert spool.rows() == {}
    spool.put(ROW, b"media")
    spool.remove()
    assert spool.rows() == {}
    assert spool.storage.list("spool/eval") == []


def test_only_what_the_ledger_knows_is_removed(spool: Spool) -> None:
    rows = [LedgerRow(i, f"k{i}_0", attempts=1) for i in range(3)]
    spool.put(rows[0], None)
    spool.put(replace(rows[1], attempts=2), b"newer")
    spool.remove_committed(rows)
    assert spool.positions() == {1}


def test_damage_is_named(spool: Spool) -> None:
    spool.storage.publish("spool/eval/00012/00003.tar", b"not a tar")
    with pytest.raises(StorageError, match="00003.tar"):
        spool.rows()
    spool.storage.publish("spool/eval/00012/00003.tar", bytes(1024))
    with pytest.raises(StorageError, match="empty"):
        spool.media(3)
    for row in (b"{", b"[]", b"{}", b'{"first_attempt": 3, "last_attempt": null, "not_before": null}'):
        spool.storage.publish("spool/eval/00012/00003.tar", pack([("k_0.json", row)]))
        with pytest.raises(StorageError, match="00003.tar is not a readable spool entry"):
            spool.rows()


def test_names_that_are_not_ours_are_left_alone(spool: Spool) -> None:
    spool.storage.publish("spool/eval/00012/\u00b2.tar", b"")
    assert spool.positions() == set()
