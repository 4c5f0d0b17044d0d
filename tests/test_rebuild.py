"""What would be made anew, and why: one reason for each way in which a column stops following from its media."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from store_factory import CLASSES, LOGMEL, SPLIT, VIDEO, commit_column, commit_media, make_plan, make_store

from stores.__main__ import main
from stores.forget import forget
from stores.layout import Store, StoreError
from stores.ledger import FETCHED, commit_ledger, read_ledger
from stores.rebuild import Rebuild, parse_shards, plan_rebuild
from stores.summaries import FORMAT
from stores.tables import PLAN_SCHEMA

KEYS = [row["key"] for row in make_plan().to_pylist()]


def test_of_a_store_that_is_up_to_date_nothing(tmp_path: Path) -> None:
    assert list(plan_rebuild(make_store(tmp_path))) == []


def test_each_reason(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    lost = next((tmp_path / "features" / LOGMEL.column / SPLIT).glob("00000.*.tar"))
    lost.unlink()
    commit_media(store, 1, fetch=[4])
    (tmp_path / "features" / VIDEO.column / SPLIT / "00002.parquet").unlink()
    assert list(plan_rebuild(store)) == [
        Rebuild(SPLIT, 0, LOGMEL.column, f"{lost.name} is missing or of another size", 4, 0),
        Rebuild(SPLIT, 1, LOGMEL.column, "1 clips fetched since", 1, 0),
        Rebuild(SPLIT, 1, VIDEO.column, "1 clips fetched since", 1, 0),
        Rebuild(SPLIT, 2, VIDEO.column, "not computed yet", 2, 0),
    ]
    assert [found.shard for found in plan_rebuild(store, columns=[VIDEO.column])] == [1, 2]
    assert [found.column for found in plan_rebuild(store, shards=[0, 2])] == [LOGMEL.column, VIDEO.column]
    commit_column(store, VIDEO, 1)
    assert [found.column for found in plan_rebuild(store, shards=[1])] == [LOGMEL.column]
    list(forget(store, [KEYS[6]]))  # takes columns along
    assert [found.why for found in plan_rebuild(store, shards=[1])] == ["1 clips fetched since"]


def relabel(store: Store) -> None:
    rows = make_plan().to_pylist()
    rows[0]["mids"], rows[0]["labels"] = [CLASSES[3][0]], [3]
    summary = {"format": FORMAT, "split": SPLIT, "segments": 12, "classes": [list(pair) for pair in CLASSES]}
    store.write_plan(SPLIT, pa.Table.from_pylist(rows, PLAN_SCHEMA), summary)


def test_a_corrected_label_costs_no_decoding(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    relabel(store)
    found = list(plan_rebuild(store))
    assert [(item.shard, item.decode) for item in found] == [(0, 0), (0, 0)]
    assert {item.why for item in found} == {"labels corrected: only the json is written anew"}


def drop_media(store: Store, origin: str) -> None:
    from dataclasses import replace

    ledger = read_ledger(store, SPLIT, 0)
    assert ledger is not None
    rows = [replace(r, tar=None, offset=None, origin=origin) if r.status == FETCHED else r for r in ledger.rows]
    commit_ledger(store, SPLIT, 0, rows, {}, ledger.version)


@pytest.mark.parametrize(("origin", "lost"), [("http", 4), ("dir", 0)])
def test_media_that_were_not_kept_cannot_be_decoded_again(tmp_path: Path, origin: str, lost: int) -> None:
    store = make_store(tmp_path)
    drop_media(store, origin)
    assert list(plan_rebuild(store)) == []  # nothing is to be done, so nothing is lacking
    (tmp_path / "features" / LOGMEL.column / SPLIT / "00000.parquet").unlink()
    (found,) = plan_rebuild(store)
    assert (found.decode, found.lost) == (4, lost)


def test_media_whose_tar_is_lost_cannot_be_decoded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path)
    next((tmp_path / "media" / SPLIT).glob("00000.*.tar")).unlink()
    (tmp_path / "features" / LOGMEL.column / SPLIT / "00000.parquet").unlink()
    (found,) = plan_rebuild(store)
    assert (found.decode, found.lost, found.broken) == (4, 4, 4)
    assert main(["plan-rebuild", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "the media tar of 4 clips is missing or cut" in said and "move its ledger out" in said
    assert "not kept" not in said


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path)
    assert main(["plan-rebuild", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "0 column shards to make anew, 0 clips to decode\n"
    drop_media(store, "http")
    (tmp_path / "features" / LOGMEL.column / SPLIT / "00000.parquet").unlink()
    assert main(["plan-rebuild", str(tmp_path), "--column", "logmel", "--shards", "0,2"]) == 1
    said = capsys.readouterr().out
    assert (
        f"{LOGMEL.column}\t{SPLIT}\t00000\tnot computed yet\t4 clips to decode; the media of 4 clips were not" in said
    )
    assert "4 clips cannot be: fetch them" in said
    for words in (["--split", "train"], ["--column", "mfcc"], ["--shards", "x"], ["--shards", "1,9"]):
        assert main(["plan-rebuild", str(tmp_path), *words]) == 2


@pytest.mark.parametrize(("text", "numbers"), [("3", [3]), ("3,7-9", [3, 7, 8, 9]), ("2-2, 1", [1, 2])])
def test_shards_by_number(text: str, numbers: list[int]) -> None:
    assert parse_shards(text) == numbers


@pytest.mark.parametrize("text", ["", "a", "3-", "9-7", "1,,2", "-1", "99999999"])
def test_what_is_no_list_of_shards(text: str) -> None:
    with pytest.raises(StoreError, match="such as 3,7-9"):
        parse_shards(text)
