"""Files of scores: every bit comes back, metrics from the file are those from memory, wrong files are named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.metrics import evaluate
from stores.scores import ClipScores, ScoresOrigin, read_scores, split_uri, write_scores
from stores.storage import Storage, StorageError
from stores.tables import LEDGER_SCHEMA, to_parquet

NAME = "scores/eval.parquet"
CLASSES = [("/m/09x0r", "Speech"), ("/m/0k4j", "Car"), ("/m/07qfr4h", "Speech synthesizer, “robot”"), ("/t/dd1", "x")]
ORIGIN = ScoresOrigin("csn", "ab" * 32, "eval", "cd" * 32, CLASSES, {"step": 1000, "delta": None})


def clips_of(count: int = 50, seed: int = 0) -> ClipScores:
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=8, size=(count, 4)).astype(np.float32)
    scores[:3, :] = np.array([[np.inf, -np.inf, -0.0, 1e-45]], np.float32)
    targets = rng.random((count, 4)) < 0.3
    targets[3] = False
    return ClipScores([f"-_{i:09d}_{i}000" for i in range(count)], scores, targets, ORIGIN)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_everything_comes_back_bit_for_bit(place: str, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path) if place == "disk" else f"memory://{uuid4().hex}")
    clips = clips_of()
    write_scores(storage, NAME, clips)
    back = read_scores(storage, NAME)
    assert list(back.keys) == list(clips.keys)
    assert back.scores.tobytes() == clips.scores.tobytes()
    assert back.scores.dtype == np.float32
    np.testing.assert_array_equal(back.targets, clips.targets, strict=True)
    assert back.origin == replace(ORIGIN, classes=tuple(CLASSES))


def test_metrics_from_the_file_are_those_from_memory(storage: Storage) -> None:
    clips = clips_of(2000)
    write_scores(storage, NAME, clips)
    back = read_scores(storage, NAME)
    assert evaluate(back.scores, back.targets).as_dict() == evaluate(clips.scores, clips.targets).as_dict()


def test_many_row_groups_no_clips_and_arrays_laid_out_otherwise(storage: Storage) -> None:
    rng = np.random.default_rng(0)
    many = 40_000
    targets = np.asfortranarray(rng.random((many, 4)) < 0.2)
    clips = ClipScores([str(i) for i in range(many)], rng.random((4, many), np.float32).T, targets, ORIGIN)
    for case in (clips, ClipScores([], np.zeros((0, 4), np.float32), np.zeros((0, 4), bool), ORIGIN)):
        write_scores(storage, NAME, case)
        back = read_scores(storage, NAME)
        assert list(back.keys) == list(case.keys)
        np.testing.assert_array_equal(back.scores, case.scores, strict=True)
        np.testing.assert_array_equal(back.targets, case.targets, strict=True)


def test_any_parquet_tool_reads_it(storage: Storage) -> None:
    clips = clips_of()
    write_scores(storage, NAME, clips)
    table = pq.read_table(storage.path(NAME))
    assert table.column_names == ["key", "scores", "labels"]
    assert table["scores"].type == pa.list_(pa.float32(), 4)
    row = table.slice(7, 1).to_pylist()[0]
    assert row["key"] == clips.keys[7]
    assert row["scores"] == clips.scores[7].tolist()
    assert row["labels"] == np.flatnonzero(clips.targets[7]).tolist()
    said = json.loads(table.schema.metadata[b"avlens"])
    assert (said["kind"], said["format"], said["clips"]) == ("clip scores", 1, 50)
    assert (said["model"], said["split"], said["noted"]) == ("csn", "eval", {"step": 1000, "delta": None})
    listed = json.dumps([list(pair) for pair in CLASSES], separators=(",", ":"))
    assert said["classes_digest"] == hashlib.sha256(listed.encode()).hexdigest()


def test_equal_content_gives_equal_bytes_and_a_new_file_replaces_the_old(storage: Storage) -> None:
    write_scores(storage, NAME, clips_of())
    first = storage.read(NAME)
    write_scores(storage, NAME, clips_of(seed=1))
    assert storage.read(NAME) != first
    write_scores(storage, NAME, clips_of())
    assert storage.read(NAME) == first


def test_a_write_that_fails_leaves_the_old_file(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scores(storage, NAME, clips_of())
    before = storage.read(NAME)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_scores(storage, NAME, clips_of(seed=1))
    assert storage.read(NAME) == before


def test_what_does_not_fit_together_is_never_written(storage: Storage) -> None:
    good = clips_of()
    nan = good.scores.copy()
    nan[9, 2] = np.nan
    for change, words in (
        ({"keys": good.keys[1:]}, r"float32 \[49, 4\] expected for 49 keys"),
        ({"keys": [*good.keys[1:], good.keys[1]]}, "got 1 repetitions"),
        ({"scores": good.scores.astype(np.float64)}, "got float64"),
        ({"scores": good.scores[:, :3]}, "scores: float32"),
        ({"scores": nan}, "got 1 clips with one, first -_000000009_9000"),
        ({"targets": good.targets.astype(np.int64)}, "targets: bool"),
        ({"targets": good.targets[:-1]}, "targets: bool"),
        ({"origin": replace(ORIGIN, classes=CLASSES[:3])}, "3 classes"),
        ({"origin": replace(ORIGIN, classes=[])}, "got 0"),
        ({"origin": replace(ORIGIN, classes=CLASSES * 8192)}, "got 32768"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(good, **change)
    with pytest.raises(ValueError, match="ends in .parquet"):
        write_scores(storage, "scores/eval", good)
    with pytest.raises(ValueError, match="JSON"):
        write_scores(storage, NAME, replace(good, origin=replace(ORIGIN, noted={"loss": float("nan")})))
    assert storage.list("scores") == []


def test_an_absent_file_stays_absent_and_damage_is_named(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        read_scores(storage, NAME)
    write_scores(storage, NAME, clips_of())
    data = storage.read(NAME)
    flipped = bytearray(data)
    flipped[len(data) // 4] ^= 1
    for bad in (b"", data[: len(data) // 2], bytes(flipped), b"<html>"):
        storage.publish(NAME, bad)
        with pytest.raises(StorageError, match=NAME):
            read_scores(storage, NAME)


def rewritten(storage: Storage, summary: dict[str, Any] | None = None, **columns: pa.Array) -> None:
    """Writes a good file, then again with other columns or another summary, without our checks."""
    write_scores(storage, NAME, clips_of())
    table = pq.read_table(storage.path(NAME))
    said = {**json.loads(table.schema.metadata[b"avlens"]), **(summary or {})}
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    storage.publish(NAME, to_parquet(table, table.schema.remove_metadata(), said))


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"kind": "other"}, "expected clip scores of format 1, it is other of format 1"),
        ({"format": 2}, "it is clip scores of format 2"),
        ({"clips": 49}, "expected 49 rows"),
        ({"classes": [["/m/1", "a"]] * 4}, "class list does not have the digest"),
        ({"classes": None}, "no readable scores"),
        ({"noted": 3}, "no readable scores"),
        ({"model": None}, "model: a text expected, got None"),
        ({"checkpoint": ""}, "checkpoint: a text expected"),
    ],
)
def test_a_summary_that_does_not_fit_is_refused(storage: Storage, summary: dict[str, Any], words: str) -> None:
    rewritten(storage, summary)
    with pytest.raises(ValueError, match=words) as caught:
        read_scores(storage, NAME)
    assert NAME in str(caught.value)


def fixed(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def labels(first: list[int | None] | None) -> pa.Array:
    return pa.array([first] + [[0]] * 49, pa.list_(pa.int16()))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("labels", labels([4]), "labels are not all between 0 and 3"),
        ("labels", labels([-1]), "labels are not all between 0 and 3"),
        ("labels", labels([None]), "empty cells"),
        ("labels", labels(None), "empty cells"),
        ("scores", fixed(np.zeros((50, 3), np.float32)), "expected 50 rows"),
        ("scores", fixed(np.zeros((50, 4))), "expected 50 rows"),
        ("scores", fixed(np.full((50, 4), np.nan, np.float32)), "no NaN expected, got 50"),
        ("key", pa.array(["a"] * 50), "got 49 repetitions"),
        ("key", pa.array([None] * 50, pa.string()), "empty cells"),
    ],
)
def test_columns_that_do_not_fit_are_refused(storage: Storage, column: str, values: pa.Array, words: str) -> None:
    rewritten(storage, **{column: values})
    with pytest.raises(ValueError, match=words) as caught:
        read_scores(storage, NAME)
    assert NAME in str(caught.value)


def test_other_tables_are_refused_by_name(storage: Storage) -> None:
    storage.publish(NAME, to_parquet(LEDGER_SCHEMA.empty_table(), LEDGER_SCHEMA, {"format": 1}))
    with pytest.raises(ValueError, match=f"{NAME} holds no readable scores: .*another table of format 1"):
        read_scores(storage, NAME)
    pq.write_table(pa.table({"key": ["a"]}), storage.path(NAME))
    with pytest.raises(StorageError, match=f"{NAME} is not a readable table"):
        read_scores(storage, NAME)


def test_a_whole_uri_is_a_storage_and_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, where in (
        ("eval.parquet", tmp_path),
        ("out/eval.parquet", tmp_path / "out"),
        (f"{tmp_path}/a/b/eval.parquet", tmp_path / "a/b"),
        (f"file://{tmp_path}/c/eval.parquet", tmp_path / "c"),
    ):
        storage, name = split_uri(uri)
        write_scores(storage, name, clips_of(5))
        assert (where / "eval.parquet").is_file()
    storage, name = split_uri("memory://bucket/x/eval.parquet")
    assert storage.url(name) == "memory://bucket/x/eval.parquet"
    for bad in ("", "out/", "s3://eval.parquet", "out/eval.csv"):
        with pytest.raises(ValueError, match="path or URI of a .parquet file"):
            split_uri(bad)
