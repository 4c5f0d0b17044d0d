"""Show: a clip's rows and arrays against what was put in, and keys that are nearly right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_factory import LOGMEL, SPLIT, VIDEO, array_of, commit_media, make_plan, make_store, plan_store

from stores.layout import Store, StoreError
from stores.ledger import LedgerRow, read_media
from stores.manifest import read_manifest
from stores.show import Clip, describe, find_clips, near_keys, statistics
from stores.spool import Spool
from stores.storage import StorageError
from stores.tables import LEDGER_SCHEMA, MANIFEST_SCHEMA, from_parquet, to_parquet

KEYS = [row["key"] for row in make_plan().to_pylist()]
GONE, UNDECODABLE, PENDING = KEYS[2], KEYS[4], KEYS[9]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("store"))


def clip_of(store: Store, key: str, **options: str) -> Clip:
    (clip,) = find_clips(store, key, **options)
    return clip


def text_of(clip: Clip) -> str:
    return "\n".join(describe(clip))


def test_a_clip_with_its_rows_and_arrays(store: Store) -> None:
    clip = clip_of(store, "-ZVcQPBr6Sx_0")
    assert clip.classes == ("Speech",)
    assert clip.ledger is not None and clip.ledger.status == "fetched"
    assert [column.spec.column for column in clip.columns] == [LOGMEL.column, VIDEO.column]
    for column in clip.columns:
        assert column.row is not None and column.up_to_date and column.trouble is None
        np.testing.assert_array_equal(column.array, array_of(column.spec, column.row))
    text = text_of(clip)
    values = array_of(LOGMEL, clip.columns[0].row).astype(np.float64)  # type: ignore[arg-type]
    for words in (
        "eval, shard 00000, position 0",
        "0.000 to 10.000 s of -ZVcQPBr6Sx",
        "Speech (0, /m/09x0r)",
        f"{LOGMEL.column}: ok, shard up to date",
        f"float16 [400, 64], min {values.min():.4g}, mean {values.mean():.4g}, max {values.max():.4g}",
        "float16 [10, 512]",
        "still yes",
        clip.ledger.media_sha256,
        clip.columns[0].row.sample_xxh3,  # type: ignore[union-attr]
    ):
        assert words in text


def test_ids_that_differ_by_case_only_are_two_clips(store: Store) -> None:
    one, two = clip_of(store, "aBcDeFgHiJk_20000"), clip_of(store, "aBcDeFgHiJK_30000")
    assert one.planned["key"] != two.planned["key"]
    with pytest.raises(StoreError, match="near it: aBcDeFgHiJK_30000"):
        find_clips(store, "abcdefghijk_30000")


def test_clips_that_are_not_fetched_or_not_ok(store: Store) -> None:
    assert "ledger      failed: gone, 'HTTP status 404'" in text_of(clip_of(store, GONE))
    pending = text_of(clip_of(store, PENDING))
    assert "pending: throttled" in pending
    assert "not before 2026-11-23 13:30:00" in pending
    assert pending.count("does not have this clip") == 2
    broken = clip_of(store, UNDECODABLE)
    assert [column.array for column in broken.columns] == [None, None]
    assert f"{LOGMEL.column}: undecodable (neither picture nor sound), shard up to date" in text_of(broken)


def test_a_clip_without_a_picture_is_zeros_there(store: Store) -> None:
    text = text_of(clip_of(store, KEYS[1], column=VIDEO.column))
    assert "has video no" in text
    assert "min 0, mean 0, max 0, zeros 100.0 %, all finite" in text
    assert LOGMEL.column not in text


def test_shards_under_way_and_stale_columns(tmp_path: Path) -> None:
    store = make_store(tmp_path, shards=(0, 1))
    Spool(store, SPLIT, 2).put(LedgerRow(0, KEYS[10]), None)
    clip = clip_of(store, KEYS[10])
    assert clip.in_spool and clip.ledger is None
    assert "none yet" in text_of(clip)
    commit_media(store, 1, fetch=[4])
    assert "ok, shard STALE" in text_of(clip_of(store, KEYS[6]))


def test_a_clip_of_two_splits_is_shown_in_both(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    plan_store(tmp_path, "balanced_train")
    assert [clip.split for clip in find_clips(store, KEYS[0])] == ["balanced_train", "eval"]
    assert clip_of(store, KEYS[0], split="eval").split == "eval"
    with pytest.raises(StoreError, match="it has: balanced_train, eval"):
        find_clips(store, KEYS[0], split="train")


def test_damaged_and_missing_tars_are_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    manifest = read_manifest(store, LOGMEL.column, SPLIT, 0)
    assert manifest is not None
    path = tmp_path / store.column_folder(LOGMEL.column, SPLIT) / manifest.summary["tar"]["name"]
    data = bytearray(path.read_bytes())
    start = (manifest.rows[0].array_offset or 0) + 128
    data[start : start + 2] = np.array([np.nan], np.float16).tobytes()
    path.write_bytes(data)
    text = text_of(clip_of(store, KEYS[0]))
    assert "TROUBLE     its bytes are not those that were written" in text
    assert "NOT FINITE: 1 values" in text
    path.write_bytes(data[:1000])
    assert "TROUBLE     not readable" in text_of(clip_of(store, KEYS[0]))
    path.unlink()
    text = text_of(clip_of(store, KEYS[0]))
    assert "TROUBLE     the tar is not there" in text
    assert f"{VIDEO.column}: ok" in text


def test_words_of_a_server_cannot_touch_the_terminal(store: Store) -> None:
    clip = clip_of(store, GONE)
    assert clip.ledger is not None
    text = text_of(replace(clip, ledger=replace(clip.ledger, words="\x1b]0;title\x07\nnext")))
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("abcdefghijk_20000", ["aBcDeFgHiJk_20000", "aBcDeFgHiJK_30000"]),
        ("-ZVcQPBr6Sx_30000", ["-ZVcQPBr6Sx_0"]),
        ("-ZVcQPBr6Sx", ["-ZVcQPBr6Sx_0"]),
        ("xN9j_0yZy-5_0", ["xN9j_0yZy-4_0"]),
        ("zzzzzzzzzzz_0", []),
    ],
)
def test_near_keys(key: str, near: list[str]) -> None:
    assert near_keys(pa.chunked_array([KEYS]), key) == near


def test_an_unknown_key_says_what_a_key_is(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no clip 'zzzzzzzzzzz_0' in eval of .*<ytid>_<start in ms>"):
        find_clips(store, "zzzzzzzzzzz_0")


def test_statistics_of_odd_arrays() -> None:
    assert statistics(np.array([[0, 1], [2, np.nan]], np.float16)) == (
        "float16 [2, 2], min 0, mean 1, max 2, zeros 33.3 %, NOT FINITE: 1 values"
    )
    assert statistics(np.full(3, np.inf)) == "float64 [3], NOT FINITE: 3 values"
    assert statistics(np.full((2, 3), 60_000, np.float16)).startswith("float16 [2, 3], min 6e+04, mean 6e+04")


def test_a_ledger_or_manifest_with_holes_is_told_of_and_stops_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    key = make_plan()["key"][0].as_py()
    for name, schema, changes in (
        (store.ledger_name(SPLIT, 0), LEDGER_SCHEMA, {"offset": None, "media_bytes": None}),
        (store.manifest_name(LOGMEL.column, SPLIT, 0), MANIFEST_SCHEMA, {"sample_offset": None}),
    ):
        table, summary = from_parquet(store.storage.read(name), name)
        rows = table.to_pylist()
        rows[0].update(changes)
        store.storage.publish(name, to_parquet(pa.Table.from_pylist(rows, schema), schema, summary))
    (clip,) = find_clips(store, key)
    lines = "\n".join(describe(clip))
    assert "media not kept" in lines and "its manifest does not say where it lies" in lines
    assert clip.ledger is not None
    with pytest.raises(StorageError, match=f"where the media of {key} lie"):
        read_media(store, SPLIT, clip.ledger)


def test_a_ledger_that_lost_rows_is_not_anothers(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    name = store.ledger_name(SPLIT, 0)
    table, summary = from_parquet(store.storage.read(name), name)
    store.storage.publish(name, to_parquet(table.slice(1), LEDGER_SCHEMA, summary))
    first, second = (find_clips(store, make_plan()["key"][at].as_py())[0].ledger for at in (0, 1))
    assert first is None
    assert second is not None and second.key == make_plan()["key"][1].as_py()


def test_a_plan_whose_rows_moved_is_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    plan, summary = store.read_plan(SPLIT)
    store.write_plan(SPLIT, plan.slice(1), summary)
    with pytest.raises(StorageError, match="not in its place"):
        find_clips(store, plan["key"][3].as_py())
