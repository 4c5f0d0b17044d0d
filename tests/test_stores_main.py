"""`python -m stores`: commands, exit codes, and tars that WebDataset reads by the printed names alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from store_factory import LOGMEL, SPLIT, VIDEO, make_store

from stores.__main__ import main
from stores.layout import Store
from stores.specs import Spec

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    return folder


def run_module(*args: str, repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stores", *args]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)


def test_status_as_text_and_json(folder: Path, capsys: Captured) -> None:
    assert main(["status", str(folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"store {folder}: format 1, 5 clips a shard")
    assert f"{LOGMEL.column}: float16 [400, 64]" in text
    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["uri"] == str(folder)
    assert found["splits"][0]["fetched"] == 9
    assert [column["ok"] for column in found["columns"]] == [7, 7]


@pytest.mark.parametrize("args", [["-ZVcQPBr6Sx_0"], ["--", "-ZVcQPBr6Sx_0"], ["-ZVcQPBr6Sx_0", "--split", "eval"]])
def test_show_takes_keys_that_begin_with_a_dash(folder: Path, capsys: Captured, args: list[str]) -> None:
    assert main(["show", str(folder), *args]) == 0
    assert capsys.readouterr().out.startswith("-ZVcQPBr6Sx_0: eval, shard 00000, position 0\n")


def test_show_takes_keys_that_begin_with_two(folder: Path, capsys: Captured) -> None:
    assert main(["show", str(folder), "--column", "logmel", "--4gqARaEJE_10000"]) == 0
    text = capsys.readouterr().out
    assert "Bird (3, /m/015p6); Car (4, /m/0k4j)" in text
    assert VIDEO.column not in text


def test_show_draws_the_log_mel(folder: Path, capsys: Captured, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert main(["show", str(folder), "-ZVcQPBr6Sx_0", "--png", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {path}\n")
    assert matplotlib.image.imread(path).shape == (540, 1200, 4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["show", "STORE", "abcdefghijk_20000"], "near it: aBcDeFgHiJk_20000"),
        (["show", "STORE", "clip0000000_20000", "--split", "train"], "it has: eval"),
        (["show", "STORE", "clip0000000_20000", "--column", "mfcc"], f"name one of: {LOGMEL.column}, {VIDEO.column}"),
        (["show", "STORE", "clip0000000_20000", "--png", "/nowhere/a.png", "--column", "logmel"], "/nowhere/a.png"),
        (["show", "STORE", "-ZVcQPBr6Sx_0", "--png", "a.png", "--column", "r2plus1d_18"], "expected a log-mel"),
        (["urls", "STORE", "--split", "train", "--column", "logmel"], "it has: eval"),
        (["verify", "STORE", "--split", "../x"], "no split '../x'"),
        (["status", "/nowhere/at/all"], "no store.json there"),
        (["status", "STORE/store.json"], "no store.json there"),
        (["status", "none://bucket/x"], "none"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(folder: Path, capsys: Captured, args: list[str], words: str) -> None:
    args = [text.replace("STORE", str(folder)) for text in args]
    assert main(args) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("stores: ")
    assert words in lines[0]


def test_usage_errors_are_exit_code_2_too(folder: Path, capsys: Captured) -> None:
    for args in ([], ["bogus"], ["show", str(folder)], ["status", str(folder), "--bogus"]):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
        assert capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "show", "verify", "urls"])
def test_every_command_explains_itself(capsys: Captured, command: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "URI" in text
    assert "{None}" not in text


def test_two_log_mels_have_to_be_told_apart_for_a_picture(tmp_path: Path, capsys: Captured) -> None:
    other = Spec("logmel", "logmel", (400, 64), "float16", {"logmel": {**LOGMEL.constants["logmel"], "f_min_hz": 50.0}})
    make_store(tmp_path, columns=(LOGMEL, other))
    args = ["show", str(tmp_path), "clip0000000_20000", "--png", str(tmp_path / "a.png")]
    assert main(args) == 2
    assert "choose with --column" in capsys.readouterr().err
    assert main([*args, "--column", other.column]) == 0
    assert (tmp_path / "a.png").exists()


def test_verify_prints_a_line_a_problem_and_a_verdict(tmp_path: Path, capsys: Captured) -> None:
    store = make_store(tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    (verdict,) = capsys.readouterr().out.splitlines()
    assert verdict.startswith("verified 3 shards: 3 ledgers, 6 manifests, 6 feature tars, 3 media tars, 464.9 kB read")
    assert verdict.endswith("no problem found")
    (tar,) = (tmp_path / store.media_folder(SPLIT)).glob("00001.*.tar")
    tar.write_bytes(tar.read_bytes().replace(b"clip0000001_30000.mp4", b"clip0000001_30000.mp5"))
    assert main(["verify", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path), "--media"]) == 1
    said = capsys.readouterr()
    assert "restore it from a backup" in said.err
    *lines, verdict = said.out.splitlines()
    assert lines and all(f"media/eval/{tar.name}: " in line and "expected" in line for line in lines)
    assert verdict.endswith(f"; {len(lines)} problem{'s' * (len(lines) > 1)} found")


def urls_of(folder: Path, capsys: Captured, *args: str) -> list[str]:
    assert main(["urls", str(folder), "--split", "eval", *args]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("spec", [LOGMEL, VIDEO])
def test_webdataset_reads_the_printed_tars(folder: Path, capsys: Captured, spec: Spec) -> None:
    urls = urls_of(folder, capsys, "--column", spec.feature)
    found = list(wds.WebDataset(urls, shardshuffle=False).decode())
    manifests = sorted((folder / "features" / spec.column / SPLIT).glob("*.parquet"))
    rows = [row for path in manifests for row in pq.read_table(path).to_pylist() if row["status"] == "ok"]
    assert [sample["__key__"] for sample in found] == [row["key"] for row in rows]
    assert len(found) == 7
    for sample, row in zip(found, rows, strict=True):
        array = sample[f"{spec.array}.npy"]
        assert (array.shape, array.dtype) == (spec.shape, np.float16)
        assert {name: sample["json"][name] for name in ("key", "mids", "labels")} == {
            name: row[name] for name in ("key", "mids", "labels")
        }


def test_braces_mean_the_same_list(folder: Path, capsys: Captured) -> None:
    urls = urls_of(folder, capsys, "--column", LOGMEL.column)
    (braces,) = urls_of(folder, capsys, "--column", LOGMEL.column, "--braces")
    assert wds.shardlists.expand_urls(braces) == urls
    assert len(urls) == 3


def test_braces_of_one_tar_and_of_none(tmp_path: Path, capsys: Captured) -> None:
    store = make_store(tmp_path, shards=(1,))
    (url,) = urls_of(tmp_path, capsys, "--column", "logmel", "--braces")
    assert Path(url).is_file()
    store.storage.remove(store.manifest_name(LOGMEL.column, SPLIT, 1))
    assert main(["urls", str(tmp_path), "--split", "eval", "--column", "logmel"]) == 1
    assert capsys.readouterr().out == ""


def test_as_a_module_and_into_a_pipe_that_closes(folder: Path, repository: Path) -> None:
    done = run_module("status", str(folder), repository=repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "eval      3/3     12" in done.stdout
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        command = [sys.executable, "-m", "stores", "urls", str(folder), "--split", "eval", "--column", "logmel"]
        piped = subprocess.run(command, cwd=repository, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (piped.returncode, piped.stderr) == (0, "")


def test_what_is_looked_into_stays_as_it_was(folder: Path, capsys: Captured) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for command in ("status", "verify"):
        assert main([command, str(folder)]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert Store.open(str(folder)).splits() == [SPLIT]


def test_failed_lists_clips_with_their_causes(folder: Path, capsys: Captured) -> None:
    assert main(["failed", str(folder), "--column", "logmel"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {len(row) for row in rows} == {7}
    assert {row[2] for row in rows} == {"media", LOGMEL.column}
    assert "gone" in {row[4] for row in rows}
    assert main(["failed", str(folder), "--split", "none"]) == 2


def test_urls_say_what_they_lack(tmp_path: Path, capsys: Captured) -> None:
    make_store(tmp_path, shards=(0, 1))
    asked = ["urls", str(tmp_path), "--split", SPLIT, "--column", "logmel"]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "2 of 3 shards" in said.err
    tars = sorted((tmp_path / "features" / LOGMEL.column / SPLIT).glob("*.tar"))
    tars[0].unlink()
    assert main(asked) == 1
    assert "run ingest or rebuild" in capsys.readouterr().err


def test_urls_of_a_column_that_is_not_computed_are_an_error(tmp_path: Path, capsys: Captured) -> None:
    make_store(tmp_path, columns=(LOGMEL,), shards=(0,))
    store = Store.open(str(tmp_path))
    store.write_spec(VIDEO)
    assert main(["urls", str(tmp_path), "--split", SPLIT, "--column", VIDEO.column]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "0 of 3 shards" in said.err
