"""Manifests: a row per fetched clip, sums for the corpus statistics, and when a column counts as up to date."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stores.layout import Store
from stores.ledger import LedgerRow, ledger_summary
from stores.manifest import ManifestRow, Sums, commit_manifest, is_current, read_manifest
from stores.shards import Sample, write_feature_tar
from stores.specs import Spec
from stores.storage import ABSENT, Conflict

SPEC = Spec("logmel", "logmel", (40, 8), "float16", {})
LABELS = "f" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(str(tmp_path / "store"), shard_size=4)


def rows_and_tar(store: Store, count: int = 3) -> tuple[list[ManifestRow], Any]:
    made = [Sample(f"k{i}_0", {"i": i}, np.full((40, 8), i, np.float16)) for i in range(count)]
    facts, places = write_feature_tar(Path(store.storage.root) / "tar", "logmel", made)
    rows = [
        ManifestRow(s.key, "ok", s.key[:-2], 0, 10_000, ("/m/1",), (1,), media_sha256="ab", **asdict(p))
        for s, p in zip(made, places, strict=True)
    ]
    return [*rows, ManifestRow("bad_0", "undecodable", "bad", 0, 10_000, (), (), words="text")], ("00000.x.tar", facts)


def commit(store: Store, rows: list[ManifestRow], tar: Any, version: Any = ABSENT) -> dict[str, Any]:
    return commit_manifest(store, SPEC, "eval", 0, rows, tar, Sums(0, [0.0] * 8, [0.0] * 8), LABELS, {}, version)


def test_what_was_committed_is_read_back(store: Store) -> None:
    rows, tar = rows_and_tar(store)
    summary = commit(store, rows, tar)
    manifest = read_manifest(store, SPEC.column, "eval", 0)
    assert manifest is not None
    assert [replace(row, mids=tuple(row.mids), labels=tuple(row.labels)) for row in manifest.rows] == rows
    assert manifest.summary == summary
    assert summary["counts"] == {"ok": 3, "undecodable": 1, "crashed": 0}
    assert summary["stride"] * summary["samples"] + 1024 == tar[1].size


def test_a_second_first_commit_is_refused(store: Store) -> None:
    rows, tar = rows_and_tar(store)
    commit(store, rows, tar)
    with pytest.raises(Conflict):
        commit(store, rows, tar)


def test_rows_that_do_not_fit_the_tar_are_never_written(store: Store) -> None:
    rows, tar = rows_and_tar(store)
    gap = [rows[0], *rows[2:]]
    for bad, with_tar in ((gap, tar), ([rows[0], rows[0]], tar), (rows, None), (rows[3:], tar)):
        with pytest.raises(ValueError):
            commit(store, bad, with_tar)
    assert read_manifest(store, SPEC.column, "eval", 0) is None


def test_a_shard_where_nothing_succeeded_has_a_manifest_and_no_tar(store: Store) -> None:
    rows, _ = rows_and_tar(store)
    summary = commit(store, rows[3:], None)
    assert summary["tar"] is None
    assert summary["samples"] == 0


def test_sums_equal_numpy_over_everything() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(-40, 20, (n, 8)).astype(np.float16) for n in (40, 1, 17)]
    sums = Sums.of(arrays, 8)
    together = np.concatenate(arrays).astype(np.float64)
    assert sums.count == 58
    mean = np.array(sums.total) / sums.count
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-12)
    std = np.sqrt(np.array(sums.squares) / sums.count - mean**2)
    np.testing.assert_allclose(std, together.std(axis=0), rtol=1e-9)


def test_current_means_same_spec_same_inputs_same_labels(store: Store) -> None:
    rows, tar = rows_and_tar(store)
    summary = commit(store, rows[:3], tar)
    fetched = [LedgerRow(i, row.key, "fetched", media_sha256="ab", attempts=1) for i, row in enumerate(rows[:3])]
    ledger = ledger_summary("eval", 0, fetched, {})
    assert is_current(summary, ledger, SPEC.digest, LABELS)
    assert not is_current(None, ledger, SPEC.digest, LABELS)
    assert not is_current(summary, None, SPEC.digest, LABELS)
    assert not is_current(summary, ledger, "0" * 8, LABELS)
    assert not is_current(summary, ledger, SPEC.digest, "0" * 64)
    more = [*fetched, LedgerRow(3, "late_0", "fetched", media_sha256="cd", attempts=2)]
    assert not is_current(summary, ledger_summary("eval", 0, more, {}), SPEC.digest, LABELS)
