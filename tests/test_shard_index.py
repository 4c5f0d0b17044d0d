"""Manifests as arrays: the same values as row by row, and none that cannot be true."""

from __future__ import annotations

import pickle
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from store_factory import SMALL_LOGMEL, SPLIT, make_wide_store

from stores.layout import Store
from stores.manifest import Manifest, ManifestRow, read_manifest
from stores.shard_index import FLAGS, ShardError, ShardIndex, parse_manifest
from stores.storage import StorageError
from stores.tables import MANIFEST_SCHEMA, to_parquet


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_wide_store(str(tmp_path), 12, 12, columns=[SMALL_LOGMEL], lacking=[("logmel", 5)])


def manifest_of(store: Store) -> Manifest:
    manifest = read_manifest(store, SMALL_LOGMEL.column, SPLIT, 0)
    assert manifest is not None
    return manifest


def parse(rows: list[ManifestRow], summary: dict[str, Any]) -> ShardIndex:
    table = pa.Table.from_pylist([asdict(row) for row in rows], MANIFEST_SCHEMA)
    return parse_manifest(to_parquet(table, MANIFEST_SCHEMA, summary), "f/eval/00000.parquet", SMALL_LOGMEL, SPLIT, 0)


def test_the_same_values_as_row_by_row(store: Store) -> None:
    manifest = manifest_of(store)
    index = parse(list(manifest.rows), manifest.summary)
    rows = [row for row in manifest.rows if row.status == "ok"]
    assert [key.decode() for key in index.keys] == [row.key for row in rows]
    assert index.labels.to_pylist() == [list(row.labels) for row in rows]
    for name in FLAGS:
        assert index.flags[name].tolist() == [bool(getattr(row, name)) for row in rows]
    assert index.counts == {"ok": 11, "undecodable": 1, "crashed": 0}
    assert index.tar is not None
    assert index.tar.name == f"f/eval/{manifest.summary['tar']['name']}"
    assert (index.tar.samples, index.tar.uniform, len(index.tar.places)) == (11, True, 1)
    expected = [[r.sample_offset, r.sample_bytes, r.array_offset, r.array_bytes] for r in rows]
    assert index.tar.all_places().tolist() == expected
    sums = manifest.summary["sums"]
    assert index.sums.tolist() == [sums["count"], *sums["total"], *sums["squares"]]


def test_samples_of_different_sizes_keep_their_places(store: Store) -> None:
    manifest = manifest_of(store)
    rows = [row for row in manifest.rows if row.status == "ok"][:3]
    longer = replace(rows[2], sample_bytes=rows[2].sample_bytes + 512)
    end = longer.sample_offset + longer.sample_bytes
    summary = {**manifest.summary, "tar": {**manifest.summary["tar"], "size": end + 1024}}
    index = parse([rows[0], rows[1], longer], summary)
    assert index.tar is not None and not index.tar.uniform
    assert index.tar.all_places()[:, 1].tolist() == [rows[0].sample_bytes] * 2 + [longer.sample_bytes]


def test_a_manifest_of_another_shard_column_or_tar_is_refused(store: Store) -> None:
    manifest = manifest_of(store)
    rows, summary = list(manifest.rows), manifest.summary
    tar = summary["tar"]
    wrong: list[tuple[list[ManifestRow], dict[str, Any], str]] = [
        (rows, {**summary, "shard": 1}, "expected the manifest of"),
        (rows, {**summary, "split": "train"}, "expected the manifest of"),
        (rows, {**summary, "column": "logmel-00000000"}, "expected the manifest of"),
        (rows, {**summary, "tar": {**tar, "size": tar["size"] + 512}}, "places that do not fit"),
        (rows, {**summary, "tar": {**tar, "name": "../../x.tar"}}, "a tar beside its manifest"),
        (rows, {**summary, "tar": None}, "a tar exactly when"),
        (rows[1:], summary, "places that do not fit"),
        ([replace(rows[0], array_offset=0), *rows[1:]], summary, "places that do not fit"),
        ([replace(rows[0], array_bytes=24), *rows[1:]], summary, "places that do not fit"),
        ([replace(rows[0], array_bytes=10**9), *rows[1:]], summary, "places that do not fit"),
        ([replace(rows[0], sample_offset=None), *rows[1:]], summary, "the place of every clip"),
        ([replace(rows[0], sample_xxh3="ab"), *rows[1:]], summary, "16 hex digits"),
    ]
    for changed, described, words in wrong:
        with pytest.raises(ValueError, match=words):
            parse(changed, described)


def test_what_is_no_manifest_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match=r"x\.parquet is not a readable table"):
        parse_manifest(b"PAR1", "x.parquet", SMALL_LOGMEL, SPLIT, 0)


def test_a_shard_in_which_nothing_succeeded(store: Store) -> None:
    manifest = manifest_of(store)
    failed = [row for row in manifest.rows if row.status != "ok"]
    index = parse(failed, {**manifest.summary, "tar": None})
    assert (index.tar, len(index.keys), len(index.labels)) == (None, 0, 0)
    assert index.keys.dtype.kind == "S"
    assert all(values.dtype == np.bool_ and not len(values) for values in index.flags.values())


def test_the_error_crosses_processes_and_says_what_to_do() -> None:
    error = pickle.loads(pickle.dumps(ShardError("/s/00000.tar", "expected a, found b", "/s")))
    assert str(error).startswith("/s/00000.tar: expected a, found b. `python -m stores verify /s`")
