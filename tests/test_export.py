"""An export has the clips of its split and no others, and any tar reader opens it."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds
from store_factory import LOGMEL, SPLIT, array_of, make_plan, make_store, media_of

from stores.export import export
from stores.forget import forget
from stores.layout import StoreError
from stores.manifest import OK, read_manifest
from stores.shard_index import ShardError
from stores.storage import StorageError

KEYS = [row["key"] for row in make_plan().to_pylist()]
BOTH = ["logmel", "r2plus1d_18"]


def ok_keys(store, column: str) -> list[str]:
    manifests = [read_manifest(store, column, SPLIT, shard) for shard in range(3)]
    return [row.key for manifest in manifests if manifest for row in manifest.rows if row.status == OK]


def test_shards_have_all_columns_of_a_clip_side_by_side(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    done = export(store, SPLIT, BOTH, str(tmp_path / "out"), clips_per_shard=3)
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"{SPLIT}-{number:05d}.tar" for number in range(3)]
    assert (done.files, done.clips, done.missing) == (3, 7, 0)
    assert done.size == sum(path.stat().st_size for path in paths)
    samples = list(wds.WebDataset([str(path) for path in paths], shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ok_keys(store, LOGMEL.column)
    rows = {row.key: row for shard in range(3) for row in read_manifest(store, LOGMEL.column, SPLIT, shard).rows}
    for sample in samples:
        row = rows[sample["__key__"]]
        np.testing.assert_array_equal(sample["logmel.npy"], array_of(LOGMEL, row))
        assert sample["video.npy"].shape == (10, 512)
        assert sample["json"]["mids"] == list(row.mids) and sample["json"]["has_audio"] == row.has_audio
    again = tmp_path / "again"
    export(store, SPLIT, [*BOTH, BOTH[0]], str(again), clips_per_shard=3)
    assert [path.read_bytes() for path in sorted(again.iterdir())] == [path.read_bytes() for path in paths]


def test_media_alone_and_beside_features(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    done = export(store, SPLIT, [], str(tmp_path / "media"), media=True)
    assert done.clips == 9
    with tarfile.open(tmp_path / "media" / f"{SPLIT}-00000.tar") as archive:
        names = archive.getnames()
        assert len(names) == 18 and f"{KEYS[0]}.mp4" in names
        file = archive.extractfile(f"{KEYS[0]}.mp4")
        assert file is not None and file.read() == media_of(KEYS[0])
    both = export(store, SPLIT, ["logmel"], str(tmp_path / "both"), media=True)
    assert (both.clips, both.missing) == (7, 0)


def test_files_of_each_clip(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    done = export(store, SPLIT, ["logmel"], str(tmp_path / "out"), form="files", media=True)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(
        f"{key}.{end}" for key in ok_keys(store, LOGMEL.column) for end in ("json", "logmel.npy", "mp4")
    )
    assert (done.files, done.clips) == (21, 7)
    assert np.load(tmp_path / "out" / f"{KEYS[0]}.logmel.npy").shape == (400, 64)
    assert json.loads((tmp_path / "out" / f"{KEYS[0]}.json").read_text())["key"] == KEYS[0]


def test_clips_that_were_removed_are_not_in_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    list(forget(store, [KEYS[0]]))
    assert export(store, SPLIT, BOTH, str(tmp_path / "out"), media=True).clips == 6


def test_what_cannot_be(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("x")
    for words, split, columns, to in (
        ("neither", SPLIT, [], "out"),
        ("no split train", "train", ["logmel"], "out"),
        ("no column 'mfcc'", SPLIT, ["mfcc"], "out"),
        ("empty folder", SPLIT, ["logmel"], "full"),
    ):
        with pytest.raises(StoreError, match=words):
            export(store, split, columns, str(tmp_path / to))
    assert not (tmp_path / "out").exists()


def test_an_export_that_was_killed_may_be_begun_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    (tmp_path / "out/.tmp").mkdir(parents=True)
    (tmp_path / "out/.tmp/left").write_text("x")
    assert export(store, SPLIT, BOTH, str(tmp_path / "out")).files == 1


def test_a_damaged_shard_is_left_out_and_counted(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    tar = next((tmp_path / "store/features" / LOGMEL.column / SPLIT).glob("00001.*.tar"))
    data = bytearray(tar.read_bytes())
    data[3000] ^= 1
    tar.write_bytes(data)
    done = export(store, SPLIT, ["logmel"], str(tmp_path / "out"))
    assert done.missing > 0 and done.clips + done.missing == 7


def test_what_is_not_there_yet_is_counted_and_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", shards=(0, 1))
    done = export(store, SPLIT, ["logmel"], str(tmp_path / "out"))
    assert (done.computed, done.shards) == (2, 3)
    manifest = tmp_path / "store/features" / LOGMEL.column / SPLIT / "00000.parquet"
    manifest.write_bytes(manifest.read_bytes()[:300])
    with pytest.raises(ShardError, match="00000.parquet"):
        export(store, SPLIT, ["logmel"], str(tmp_path / "other"))


def test_media_that_have_changed_are_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    tar = next((tmp_path / "store/media" / SPLIT).glob("00001.*.tar"))
    data = tar.read_bytes()
    at = data.index(media_of(KEYS[6]))
    tar.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    done = export(store, SPLIT, [], str(tmp_path / "out"), media=True)
    assert (done.clips, done.missing) == (8, 1)


def test_nothing_half_written_when_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "store")

    def fail(*_: object) -> None:
        raise StorageError("no room")

    with monkeypatch.context() as patched:
        patched.setattr("stores.storage.Storage.publish_file", fail)
        with pytest.raises(StorageError):
            export(store, SPLIT, BOTH, str(tmp_path / "out"))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
