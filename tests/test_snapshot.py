"""Snapshots: columns joined by key, an account of what is left out, a digest that follows from the content."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from store_factory import (
    BROKEN,
    LOGMEL,
    SMALL_LOGMEL,
    SMALL_VIDEO,
    SPLIT,
    UNFETCHED,
    VIDEO,
    commit_wide_shard,
    make_plan,
    make_store,
    make_wide_store,
    wide_row,
)

from stores.layout import Store, StoreError
from stores.manifest import read_manifest
from stores.shard_index import ShardError
from stores.snapshot import Snapshot, _first_of_each
from stores.specs import Spec
from stores.storage import StorageError

COLUMNS = ["logmel", "embedding"]


def names(snapshot: Snapshot) -> list[str]:
    return [key.decode() for key in snapshot.keys]


def labels_of(snapshot: Snapshot) -> list[list[int]]:
    return [part.tolist() for part in np.split(snapshot.labels, snapshot.label_offsets[1:-1])]


def test_samples_are_what_is_ok_in_plan_order(tmp_path: Path) -> None:
    make_store(tmp_path)
    snapshot = Snapshot.open(str(tmp_path), SPLIT, [LOGMEL.column, VIDEO.column])
    lost = {*UNFETCHED, *BROKEN}
    expected = [row for row in make_plan().to_pylist() if (row["shard"], row["position"]) not in lost]
    assert names(snapshot) == [row["key"] for row in expected]
    assert labels_of(snapshot) == [row["labels"] for row in expected]
    assert snapshot.shards.tolist() == [row["shard"] for row in expected]
    assert snapshot.flags["has_audio"].tolist() == [(r["shard"], r["position"]) != (1, 1) for r in expected]
    assert snapshot.flags["has_video"].tolist() == [(r["shard"], r["position"]) != (0, 1) for r in expected]
    assert snapshot.flags["still"].tolist() == [True] + [False] * 6
    assert snapshot.class_count == 8
    assert snapshot.classes[0] == ("/m/09x0r", "Speech")
    assert snapshot.account.planned == 12
    counts = {"ok": 7, "undecodable": 1, "crashed": 1, "absent": 3}
    assert snapshot.account.columns == {LOGMEL.column: counts, VIDEO.column: counts}


def test_each_sample_is_where_its_manifest_says(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 30, 8, lacking=[("logmel", 2), ("embedding", 9)])
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    for column in snapshot.columns:
        assert all(tar.uniform for tar in column.tars)
        manifests = [read_manifest(store, column.spec.column, SPLIT, shard) for shard in range(4)]
        rows = {row.key: row for manifest in manifests if manifest for row in manifest.rows}
        for sample, key in enumerate(names(snapshot)):
            place = column.tars[column.tar[sample]].all_places()[column.row[sample]].tolist()
            row = rows[key]
            assert place == [row.sample_offset, row.sample_bytes, row.array_offset, row.array_bytes]
            xxh3 = column.tars[column.tar[sample]].xxh3[column.row[sample]]
            assert f"{int(xxh3):016x}" == row.sample_xxh3


def test_a_clip_that_one_column_lacks_is_left_out_and_counted(tmp_path: Path) -> None:
    lacking = [("logmel", 2), ("embedding", 2), ("embedding", 9), ("embedding", 20)]
    store = make_wide_store(str(tmp_path), 30, 8, lacking=lacking)
    store.storage.remove(store.manifest_name(SMALL_VIDEO.column, SPLIT, 3))
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    assert names(snapshot) == [f"wide{number:07d}_0" for number in range(24) if number not in (2, 9, 20)]
    account = snapshot.account
    assert account.unmatched == 2 + 6
    assert account.columns[SMALL_VIDEO.column] == {"ok": 21, "undecodable": 3, "crashed": 0, "absent": 6}
    assert len(Snapshot.open(store, SPLIT, "logmel")) == 29


def test_splits_are_joined_and_a_clip_in_two_counts_once(tmp_path: Path) -> None:
    make_wide_store(str(tmp_path), 12, 8, split="balanced")
    store = make_wide_store(str(tmp_path), 20, 8, split="unbalanced", first=8)
    snapshot = Snapshot.open(store, ["balanced", "unbalanced"], COLUMNS)
    assert names(snapshot) == [f"wide{number:07d}_0" for number in range(28)]
    assert snapshot.account.repeated == 4
    assert snapshot.account.planned == 32
    assert labels_of(snapshot) == [wide_row(number, 0, 8)["labels"] for number in range(28)]
    assert len(np.unique(snapshot.shards)) == 5
    other = Snapshot.open(store, ["unbalanced", "balanced"], COLUMNS)
    assert sorted(names(other)) == names(snapshot)
    assert other.digest != snapshot.digest


def test_the_digest_follows_from_content_alone(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path / "a"), 20, 8)
    digest = Snapshot.open(store, SPLIT, COLUMNS).digest
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert Snapshot.open(str(tmp_path / "b"), SPLIT, COLUMNS).digest == digest
    assert Snapshot.open(store, SPLIT, COLUMNS[::-1]).digest != digest
    assert Snapshot.open(store, SPLIT, "logmel").digest != digest
    rows = [wide_row(number + 1, number - 16, 8) | {"shard": 2} for number in range(16, 20)]
    commit_wide_shard(store, SMALL_LOGMEL, SPLIT, 2, rows)
    assert Snapshot.open(store, SPLIT, COLUMNS).digest != digest


def test_columns_by_feature_or_full_name(tmp_path: Path) -> None:
    other = Spec("logmel", "logmel", (4, 3), "float16", {"logmel": {"n_mels": 3, "hop": 2}})
    store = make_wide_store(str(tmp_path), 10, 8, columns=[SMALL_LOGMEL, other, SMALL_VIDEO])
    with pytest.raises(StoreError, match=rf"several columns 'logmel'.*{SMALL_LOGMEL.column}|several columns 'logmel'"):
        Snapshot.open(store, SPLIT, ["logmel"])
    with pytest.raises(StoreError, match="no column 'mel'"):
        Snapshot.open(store, SPLIT, ["mel"])
    snapshot = Snapshot.open(store, SPLIT, [SMALL_LOGMEL.column, other.column, "embedding"])
    assert [column.name for column in snapshot.columns] == [SMALL_LOGMEL.column, other.column, "embedding"]
    assert snapshot.column("embedding").spec == snapshot.column(SMALL_VIDEO.column).spec == SMALL_VIDEO
    with pytest.raises(ValueError, match="expected a column of .*embedding, got 'video'"):
        snapshot.column("video")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 10, 8)
    with pytest.raises(StoreError, match="no split 'train'.*it has: eval"):
        Snapshot.open(store, "train", "logmel")
    with pytest.raises(StoreError, match="one or more splits and columns"):
        Snapshot.open(store, [], "logmel")
    with pytest.raises(StoreError, match="one or more splits and columns"):
        Snapshot.open(store, SPLIT, [])


def test_splits_with_other_classes_are_not_mixed(tmp_path: Path) -> None:
    make_wide_store(str(tmp_path), 10, 8, split="a")
    store = make_wide_store(str(tmp_path), 10, 8, split="b", first=50)
    plan, summary = store.read_plan("b")
    store.write_plan("b", plan, {**summary, "classes": summary["classes"][::-1]})
    with pytest.raises(StoreError, match="one class list"):
        Snapshot.open(store, ["a", "b"], "logmel")
    store.write_plan("b", plan, {**summary, "classes": summary["classes"][:5]})
    with pytest.raises(StoreError, match="class indices below 5"):
        Snapshot.open(store, "b", "logmel")


@pytest.mark.parametrize("damage", ["another shard's", "half of it", "flipped"])
def test_a_damaged_manifest_is_left_out_or_an_error(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_wide_store(str(tmp_path), 20, 8)
    name = store.manifest_name(SMALL_LOGMEL.column, SPLIT, 1)
    data = bytearray(store.storage.read(name))
    data[60] ^= 255
    other = store.storage.read(store.manifest_name(SMALL_LOGMEL.column, SPLIT, 0))
    store.storage.publish(
        name, {"another shard's": other, "half of it": data[: len(data) // 2], "flipped": data}[damage]
    )
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    assert names(snapshot) == [f"wide{number:07d}_0" for number in range(20) if not 8 <= number < 16]
    assert list(snapshot.faults) == [store.storage.url(name)]
    assert name in caplog.text
    with pytest.raises(ShardError, match=name):
        Snapshot.open(store, SPLIT, COLUMNS, strict=True)


def test_a_store_out_of_reach_is_an_error_and_no_empty_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_wide_store(str(tmp_path), 20, 8)
    read = store.storage.read

    def fail(name: str) -> bytes:
        if "features" in name and name.endswith("00001.parquet"):
            raise StorageError("the network is down")
        return read(name)

    monkeypatch.setattr(store.storage, "read", fail)
    with pytest.raises(StorageError, match="the network is down"):
        Snapshot.open(store, SPLIT, COLUMNS)


def test_columns_that_disagree_about_labels_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_store(tmp_path)
    store = Store.open(str(tmp_path))
    manifest = read_manifest(store, VIDEO.column, SPLIT, 1)
    assert manifest is not None
    import pyarrow as pa

    from stores.tables import MANIFEST_SCHEMA, from_parquet, to_parquet

    name = store.manifest_name(VIDEO.column, SPLIT, 1)
    table, summary = from_parquet(store.storage.read(name), name)
    assert isinstance(table, pa.Table)
    store.storage.publish(name, to_parquet(table, MANIFEST_SCHEMA, {**summary, "labels_digest": "other"}))
    snapshot = Snapshot.open(store, SPLIT, [LOGMEL.column, VIDEO.column])
    assert f"shards eval 1: those of {LOGMEL.column} are used" in caplog.text
    assert len(snapshot) == 7


def test_nothing_computed_yet_is_an_empty_snapshot(tmp_path: Path) -> None:
    store = make_wide_store(str(tmp_path), 10, 8)
    for shard in range(2):
        store.storage.remove(store.manifest_name(SMALL_LOGMEL.column, SPLIT, shard))
    snapshot = Snapshot.open(store, SPLIT, COLUMNS)
    assert len(snapshot) == 0
    assert snapshot.account.columns[SMALL_LOGMEL.column]["absent"] == 10
    assert snapshot.label_offsets.tolist() == [0]


def test_a_million_keys_are_told_apart() -> None:
    keys = np.char.add(b"key", np.arange(1_000_000).astype("S10"))
    first = _first_of_each(np.concatenate([keys, keys[500_000:], keys[:1], [b"another"]]))
    assert first[:1_000_000].all() and first[-1]
    assert not first[1_000_000:-1].any()
