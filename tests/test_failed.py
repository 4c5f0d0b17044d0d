"""The list of clips that lack something: every one, once for each thing that it lacks, and no other."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from store_factory import LOGMEL, SPLIT, VIDEO, make_store

from stores.failed import losses
from stores.layout import Store


def test_every_row_that_is_not_fetched_or_not_ok_is_listed(tmp_path: Path) -> None:
    make_store(tmp_path)
    store = Store.open(str(tmp_path))
    found = list(losses(store, [SPLIT], [LOGMEL.column, VIDEO.column]))
    ledgers = [row for path in sorted((tmp_path / "media" / SPLIT).glob("*.parquet")) for row in _rows(path)]
    expected = {("media", row["key"], row["status"], row["cause"]) for row in ledgers if row["status"] != "fetched"}
    for spec in (LOGMEL, VIDEO):
        for path in (tmp_path / "features" / spec.column / SPLIT).glob("*.parquet"):
            expected |= {(spec.column, r["key"], r["status"], None) for r in _rows(path) if r["status"] != "ok"}
    assert {(loss.where, loss.key, loss.status, loss.cause) for loss in found} == expected
    assert len(found) == len(expected) > 5
    assert {loss.status for loss in found} >= {"failed", "pending"}


def test_only_the_columns_asked_for(tmp_path: Path) -> None:
    make_store(tmp_path, shards=(0, 1))
    found = list(losses(Store.open(str(tmp_path)), [SPLIT], []))
    assert {loss.where for loss in found} == {"media"}


def _rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()
