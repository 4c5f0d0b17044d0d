"""`python -m stores gc | forget | export | inventory`: words, exit codes, and that nothing is removed unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_factory import LOGMEL, SPLIT, commit_column, commit_media, make_plan, make_store

from stores.__main__ import main

Captured = pytest.CaptureFixture[str]
KEYS = [row["key"] for row in make_plan().to_pylist()]


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_gc_shows_first_and_removes_when_told_to(tmp_path: Path, capsys: Captured) -> None:
    store = make_store(tmp_path)
    (old,) = (tmp_path / "features" / LOGMEL.column / SPLIT).glob("00001.*.tar")
    commit_media(store, 1, fetch=[4])
    commit_column(store, LOGMEL, 1)
    before = files(tmp_path)
    assert main(["gc", str(tmp_path)]) == 0
    assert (
        capsys.readouterr().out
        == "0 objects, 0 B would be removed by --delete; 1 object not old enough, the next one in 168.0 h\n"
    )
    assert main(["gc", str(tmp_path), "--older-than", "0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(str(old.relative_to(tmp_path))) and "1 object, " in said
    assert said.endswith("would be removed by --delete, once they are an hour old\n")
    assert files(tmp_path) == before
    assert main(["gc", str(tmp_path), "--older-than", "0", "--delete"]) == 2
    assert "at least 1 hour" in capsys.readouterr().err and files(tmp_path) == before
    for path in before:
        os.utime(path, (1e9, 1e9))
    assert main(["gc", str(tmp_path), "--older-than", "1", "--delete"]) == 0
    assert "removed" in capsys.readouterr().out and files(tmp_path) == before - {old}
    assert main(["gc", str(tmp_path), "--older-than", "-1"]) == 2
    assert "--older-than" in capsys.readouterr().err


def test_forget_takes_keys_that_begin_with_a_dash(tmp_path: Path, capsys: Captured) -> None:
    store = make_store(tmp_path)
    assert KEYS[0].startswith("-")
    assert main(["forget", str(tmp_path), KEYS[0], KEYS[6]]) == 0
    said = capsys.readouterr().out
    assert f"forgotten: {KEYS[6]}, {KEYS[0]}" in said or f"forgotten: {KEYS[0]}, {KEYS[6]}" in said
    assert store.forgotten() == {KEYS[0], KEYS[6]}
    assert main(["verify", str(tmp_path), "--media"]) == 0
    assert main(["forget", str(tmp_path), "nosuchclip1_0"]) == 2
    assert main(["forget", str(tmp_path)]) == 2


def test_export(tmp_path: Path, capsys: Captured) -> None:
    make_store(tmp_path / "store")
    words = ["export", str(tmp_path / "store"), "--split", SPLIT, "--column", "logmel", "--column", "r2plus1d_18"]
    assert main([*words, "--to", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("7 clips in 1 file, ")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{SPLIT}-00000.tar"]
    assert main([*words, "--to", str(tmp_path / "out")]) == 2
    assert "expected an empty folder" in capsys.readouterr().err


def test_inventories_and_what_two_have_in_common(tmp_path: Path, capsys: Captured) -> None:
    for name in "ab":
        make_store(tmp_path / name)
    assert main(["forget", str(tmp_path / "b"), KEYS[6]]) == 0
    for name in "ab":
        assert main(["inventory", str(tmp_path / name), "--to", str(tmp_path / f"{name}.inventory")]) == 0
    assert f"{SPLIT}: 12 planned, 9 fetched, 1 gone, 1 gone_here, 1 throttled" in capsys.readouterr().out
    lists = [str(tmp_path / f"{name}.inventory") for name in "ab"]
    assert main(["inventory", "--compare", *lists, "--to", str(tmp_path / "both.csv"), "--feature", "logmel"]) == 0
    said = capsys.readouterr().out
    assert "both: 6, of which 6 with the same bytes" in said and "not signed" in said
    assert (tmp_path / "both.csv").read_text().count("\n") == 3 + 6
    for words in ([], [str(tmp_path / "a")], [str(tmp_path / "a"), "--compare", *lists]):
        assert main(["inventory", *words]) == 2
    assert main(["inventory", "--compare", str(tmp_path / "both.csv"), lists[0]]) == 2
    assert "no readable inventory" in capsys.readouterr().err
