"""The store's description and names: made once, refused when they do not fit."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from store_factory import LOGMEL, SPLIT, make_store

from stores.layout import Store, StoreError
from stores.plans import labels_digests
from stores.specs import Spec
from stores.tables import PLAN_SCHEMA


def test_made_once_and_opened_again(tmp_path: Path) -> None:
    uri = str(tmp_path / "store")
    with pytest.raises(StoreError, match="no store.json"):
        Store.open(uri)
    Store.open_or_create(uri, shard_size=16, seed=3)
    assert Store.open(uri).config.shard_size == 16
    assert Store.open_or_create(uri).config.seed == 3
    with pytest.raises(StoreError, match="shard size 16, not 512"):
        Store.open_or_create(uri, shard_size=512)
    with pytest.raises(StoreError, match="seed 3, not 0"):
        Store.open_or_create(uri, seed=0)
    with pytest.raises(StoreError, match="1 to 100000"):
        Store.open_or_create(str(tmp_path / "other"), shard_size=0)


@pytest.mark.parametrize("text", ['{"format": 2, "shard_size": 1, "seed": 0}', "{}", "rubbish", '{"format": 1}'])
def test_another_format_or_rubbish_is_refused_clearly(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(StoreError, match=r"store\.json"):
        Store.open(str(tmp_path))


@pytest.mark.parametrize("split", ["../x", "Eval", "a/b", "", "a b", "_x"])
def test_split_names_are_plain_words(tmp_path: Path, split: str) -> None:
    with pytest.raises(StoreError, match="split name"):
        Store.open_or_create(str(tmp_path)).ledger_name(split, 0)


def test_plans_and_specs_come_back_and_what_is_not_there_is_listed(tmp_path: Path) -> None:
    store = Store.open_or_create(str(tmp_path))
    row = {
        "shard": 0,
        "position": 0,
        "key": "a_0",
        "ytid": "a",
        "start_ms": 0,
        "end_ms": 9,
        "mids": ["/m/1"],
        "labels": [4],
    }
    plan = pa.Table.from_pylist([row], PLAN_SCHEMA)
    said = {"format": 1, "split": "eval", "csv_sha256": "x", "segments": 1, "classes": [["/m/1", "Speech"]]}
    digests = store.write_plan("eval", plan, said)
    assert digests == labels_digests(plan, store.config.shard_size)
    assert store.read_plan("eval", ("key", "labels"))[0].column_names == ["key", "labels"]
    table, summary = store.read_plan("eval")
    assert table.to_pylist() == [row]
    assert summary == {**said, "labels_sha256": [*digests]} == store.plan_summary("eval")
    assert store.splits() == ["eval"]
    with pytest.raises(StoreError, match="it has: eval"):
        store.read_plan("train")
    assert store.plan_summary("train") is None


def test_columns_by_full_name_or_by_feature_where_that_is_clear(tmp_path: Path) -> None:
    store = Store.open_or_create(str(tmp_path))
    specs = [Spec("logmel", "logmel", (4, 2), "float16", {"n": n}) for n in (1, 2)]
    store.write_spec(specs[0])
    assert store.resolve_column("logmel") == specs[0].column == store.resolve_column(specs[0].column)
    assert store.read_spec(specs[0].column) == specs[0]
    store.write_spec(specs[1])
    with pytest.raises(StoreError, match="several columns 'logmel'"):
        store.resolve_column("logmel")
    with pytest.raises(StoreError, match="no column 'video'"):
        store.resolve_column("video")


def test_what_somebody_left_among_plans_and_columns_is_neither(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    columns = store.columns()
    (tmp_path / "features/logmel-00000000").mkdir()
    (tmp_path / "plan/eval (1).parquet").write_bytes(b"")
    (tmp_path / "plan/eval.bak.parquet").write_bytes(b"")
    assert store.splits() == [SPLIT] and store.columns() == columns


@pytest.mark.parametrize("text", ["", '{"fea', "[1]", LOGMEL.to_json().replace("400", "401")])
def test_a_damaged_spec_is_named_and_restored_by_who_knows_it(tmp_path: Path, text: str) -> None:
    store = make_store(tmp_path)
    path = tmp_path / f"features/{LOGMEL.column}/spec.json"
    path.write_text(text)
    with pytest.raises(StoreError, match="spec.json is damaged: restore it"):
        store.read_spec(LOGMEL.column)
    store.write_spec(LOGMEL)
    assert store.read_spec(LOGMEL.column) == LOGMEL


@pytest.mark.parametrize("size", ["0", "-3", "1e400", "99999999999999999999", '"3"', "null", "[[[[", "2.5"])
def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path, size: str) -> None:
    (tmp_path / "store.json").write_text(f'{{"format": 1, "shard_size": {size}, "seed": 0}}')
    with pytest.raises(StoreError, match="store.json is not a store's description"):
        Store.open(str(tmp_path))


@pytest.mark.parametrize("text", ['{"keys": [1]}', '{"keys": "a_0"}', '{"keys": [null]}', "[]", "", "{"])
def test_a_damaged_list_of_forgotten_clips_is_named(tmp_path: Path, text: str) -> None:
    store = make_store(tmp_path)
    (tmp_path / "forgotten.json").write_text(text)
    with pytest.raises(StoreError, match="forgotten.json is damaged"):
        store.forgotten()
