"""Column shards: right arrays, flags and rows; only what is missing is computed; nothing half-visible."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from shard_bench import KEYS, PLANNED, Bench

from pipeline.column_shard import EncoderUnavailable
from pipeline.decode_process import DecodeOptions
from pipeline.decoder import Decoder
from pipeline.media_source import MediaGone
from stores.layout import StoreError
from stores.manifest import read_manifest
from stores.storage import Storage, StorageError


@pytest.fixture
def bench(tmp_path: Path, shard_media: list[bytes], decoders: dict[DecodeOptions, Decoder]) -> Bench:
    return Bench(str(tmp_path / "store"), shard_media, decoders)


def test_rows_flags_and_arrays_of_every_kind_of_clip(bench: Bench) -> None:
    bench.fetch()
    report = bench.compute()
    logmel, video = bench.columns
    assert (report.decoded, report.reused, bench.encoder.calls) == (5, 0, 3)
    sound = {row.key: row for row in bench.manifest(logmel).rows}
    picture = {row.key: row for row in bench.manifest(video).rows}
    assert [sound[key].status for key in KEYS] == ["ok"] * 4 + ["undecodable"]
    assert [(sound[key].has_audio, sound[key].has_video) for key in KEYS[:4]] == [
        (True, True),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert [sound[key].mute for key in KEYS[:4]] == [False, True, False, False]
    assert [sound[key].short for key in KEYS[:4]] == [False, False, False, True]
    assert [picture[key].has_video for key in KEYS[:4]] == [True, False, True, True]
    assert [picture[key].real_rows for key in KEYS[:4]] == [10, 0, 10, 6]
    assert sound[KEYS[3]].real_rows == pytest.approx(240, abs=2)
    assert bench.manifest(logmel).summary["flags"] == {"no_audio": 1, "no_video": 1, "mute": 1, "still": 0, "short": 1}


def test_outsiders_read_the_tars_and_the_manifest(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    logmel, video = bench.columns
    for column, name, shape in ((logmel, "logmel.npy", (400, 64)), (video, "video.npy", (10, 512))):
        folder = Path(bench.store.storage.root, "features", column.name, "eval")
        tar = next(folder.glob("*.tar"))
        samples = list(wds.WebDataset(str(tar), shardshuffle=False).decode())
        assert [sample["__key__"] for sample in samples] == KEYS[:4]
        assert {(sample[name].shape, sample[name].dtype.name) for sample in samples} == {(shape, "float16")}
        assert samples[1]["json"]["has_audio"] is True
        table = pq.read_table(folder / "00000.parquet")
        data = tar.read_bytes()
        row = table.slice(0, 1).to_pylist()[0]
        array = np.load(io.BytesIO(data[row["array_offset"] :][: row["array_bytes"]]))
        np.testing.assert_array_equal(array, samples[0][name])


def test_a_missing_track_is_zeros_and_so_are_windows_without_a_real_frame(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    logmel, video = bench.columns
    arrays = {}
    for column, name in ((logmel, "logmel.npy"), (video, "video.npy")):
        tar = next(Path(bench.store.storage.root, "features", column.name, "eval").glob("*.tar"))
        arrays[column.name] = [s[name] for s in wds.WebDataset(str(tar), shardshuffle=False).decode()]
    assert not arrays[logmel.name][2].any()
    assert not arrays[video.name][1].any()
    assert (arrays[video.name][3][:6] != 0).all()
    assert not arrays[video.name][3][6:].any()
    assert arrays[logmel.name][0].any()


def test_a_column_is_the_same_alone_and_beside_another(bench: Bench, tmp_path: Path, shard_media: list[bytes]) -> None:
    bench.fetch()
    bench.compute()
    other = Bench(str(tmp_path / "other"), shard_media, bench.decoders)
    other.fetch()
    for column in other.columns:
        other.compute((column,))
    for column in bench.columns:
        assert other.tar(column) == bench.tar(column)


def test_what_is_up_to_date_is_not_done_again(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    names = [f"features/{column.name}/eval/00000.parquet" for column in bench.columns]
    before = [bench.store.storage.read_versioned(name) for name in names]
    report = bench.compute()
    assert report.decoded == 0
    assert set(report.summaries) == {column.name for column in bench.columns}
    assert [bench.store.storage.read_versioned(name) for name in names] == before


def test_a_corrected_label_rewrites_json_and_decodes_nothing(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    arrays = {column.name: bench.tar(column) for column in bench.columns}
    bench.planned = [replace(PLANNED[0], mids=("/m/05zppz",), labels=(1,)), *PLANNED[1:]]
    bench.labels = "1" * 64
    report = bench.compute()
    assert (report.decoded, report.reused, bench.encoder.calls) == (0, 10, 3)
    for column in bench.columns:
        assert bench.tar(column) != arrays[column.name]
        row = bench.manifest(column).rows[0]
        assert (list(row.mids), list(row.labels)) == (["/m/05zppz"], [1])
    bench.planned, bench.labels = PLANNED, "0" * 64
    bench.compute()
    assert {column.name: bench.tar(column) for column in bench.columns} == arrays


def test_a_supplement_costs_its_own_clip_only_and_equals_a_fresh_build(
    bench: Bench, shard_media: list[bytes], tmp_path: Path
) -> None:
    from pipeline.failures import Cause, FetchFailure

    bench.fetcher.script[KEYS[2]] = [FetchFailure(Cause.GONE, "404"), shard_media[2]]
    bench.fetch()
    bench.compute()
    assert bench.manifest(bench.columns[0]).summary["samples"] == 3
    bench.fetch(retry=frozenset({Cause.GONE}))
    report = bench.compute()
    assert (report.decoded, report.reused) == (1, 8)
    fresh = Bench(str(tmp_path / "fresh"), shard_media, bench.decoders)
    fresh.fetch()
    fresh.compute()
    for column in bench.columns:
        assert bench.tar(column) == fresh.tar(column)


def test_a_damaged_old_tar_is_computed_again_and_not_carried_on(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    column = bench.columns[0]
    good = bench.tar(column)
    name = bench.manifest(column).summary["tar"]["name"]
    path = Path(bench.store.storage.root, "features", column.name, "eval", name)
    data = bytearray(good)
    data[bench.manifest(column).rows[1].array_offset + 500] ^= 1
    path.write_bytes(data)
    bench.labels = "1" * 64
    assert bench.compute((column,)).decoded == 1
    bench.labels = "0" * 64
    bench.compute((column,))
    assert bench.tar(column) == good


def test_dropped_media_serve_the_columns_and_are_gone_then(bench: Bench) -> None:
    bench.fetch(keep_media=False, keep_spool=True)
    bench.compute((bench.columns[0],))
    assert bench.store.storage.list("spool/eval") == []
    with pytest.raises(MediaGone, match="not kept"):
        bench.compute((bench.columns[1],))


def test_media_that_changed_in_the_store_are_refused(bench: Bench) -> None:
    bench.fetch()
    tar = next(Path(bench.store.storage.root, "media/eval").glob("*.tar"))
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(StorageError, match="not those that its ledger names"):
        bench.compute()


@pytest.mark.parametrize("error", [EncoderUnavailable("node lost"), MemoryError()])
def test_a_lost_encoder_fails_the_shard_and_no_clip(
    bench: Bench, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.fetch()
    with monkeypatch.context() as patch:

        def lost(handle: object) -> None:
            raise error

        patch.setattr(bench.encoder, "result", lost)
        with pytest.raises(type(error)):
            bench.compute()
    assert all(read_manifest(bench.store, column.name, "eval", 0) is None for column in bench.columns)
    assert bench.compute().decoded == 5


def test_a_crash_between_tar_and_manifest_leaves_nothing_visible(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.fetch()
    publish = Storage.publish
    with monkeypatch.context() as patch:

        def crash(self: Storage, name: str, *rest: Any) -> None:
            if name.startswith("features/"):
                raise StorageError("the machine stops here")
            publish(self, name, *rest)

        patch.setattr(Storage, "publish", crash)
        with pytest.raises(StorageError):
            bench.compute()
    assert all(read_manifest(bench.store, column.name, "eval", 0) is None for column in bench.columns)
    bench.compute()
    assert bench.manifest(bench.columns[0]).summary["samples"] == 4


def test_columns_before_media_are_refused(bench: Bench) -> None:
    with pytest.raises(StoreError, match="no ledger yet"):
        bench.compute()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_lost_tar_is_made_anew_bit_for_bit(bench: Bench, damage: str) -> None:
    bench.fetch()
    logmel = bench.columns[:1]
    bench.compute(logmel)
    before = bench.tar(logmel[0])
    path = Path(bench.store.storage.path(f"features/{logmel[0].name}/eval"))
    tar = path / bench.manifest(logmel[0]).summary["tar"]["name"]
    tar.unlink() if damage == "missing" else os.truncate(tar, len(before) - 512)
    report = bench.compute(logmel)
    assert report.decoded == sum(row.media_sha256 is not None for row in bench.manifest(logmel[0]).rows)
    assert report.reused == 0
    assert bench.tar(logmel[0]) == before
    assert bench.compute(logmel).decoded == 0


def test_clips_that_are_tried_again_are_decoded_again_and_others_are_not(bench: Bench) -> None:
    bench.fetch()
    bench.compute()
    before = [bench.tar(column) for column in bench.columns]
    for again, only, decoded in (
        ({"undecodable"}, None, 1),
        ({"crashed"}, None, 0),
        ({"undecodable"}, {0, 1}, 0),
        ({"ok", "undecodable"}, None, 5),
        ({"ok"}, {2, 4}, 1),
    ):
        report = bench.compute(again=frozenset(again), only=only)
        assert report.decoded == decoded
    assert [bench.tar(column) for column in bench.columns] == before
