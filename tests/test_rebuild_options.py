"""What rebuild.py is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tyro

from pipeline.columns import build_columns, column_of
from pipeline.options import JOB_VARIABLE
from pipeline.rebuild_options import RebuildOptions, absolute_paths
from stores.specs import Spec


def parsed(*words: str) -> RebuildOptions:
    return tyro.cli(RebuildOptions, args=["--store", "s", *words])


def test_defaults_are_all_of_the_store_and_nothing_twice() -> None:
    options = parsed()
    assert (options.split, options.columns, options.shard_numbers, options.statuses) == ((), None, None, frozenset())
    made = options.ingest_options()
    assert (made.kind, made.column_names, made.retry, made.wait) == ("none", [], "", 0.0)


def test_what_is_chosen() -> None:
    options = parsed("--shards", "3,7-9", "--again", "crashed,undecodable", "--split", "a", "--split", "b")
    assert (options.shard_numbers, options.split) == ([3, 7, 8, 9], ("a", "b"))
    assert options.statuses == {"crashed", "undecodable"}
    assert parsed("--again", "all").statuses == {"ok", "crashed", "undecodable"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--source", "youtube"), "fetches nothing"),
        (("--source", "http:http://h/{ytid}"), "fetches nothing"),
        (("--shards", "9-7"), "such as 3,7-9"),
        (("--again", "gone"), "--again of all, crashed"),
    ],
)
def test_what_cannot_be_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RebuildOptions("s", **{words[0].removeprefix("--"): words[1]})  # type: ignore[arg-type]


def test_an_encoder_is_run_as_its_spec_says() -> None:
    options = RebuildOptions("s", encoder_weights="random:3")
    resolved = options.encoder(
        "r2plus1d_18", {"dtype": "float32", "window_frames": 8, "frames": {"fps": 8.0, "size": 64}}
    )
    (column,) = build_columns(["r2plus1d_18"], lambda _: resolved)
    assert column_of(column.spec, options.encoder) == column
    with pytest.raises(ValueError, match="weights"):
        column_of(column.spec, RebuildOptions("s", encoder_weights="random:4").encoder)
    with pytest.raises(ValueError, match="needs --encoder-weights"):
        column_of(column.spec, RebuildOptions("s").encoder)
    (logmel,) = build_columns(["logmel"], lambda _: None)
    other = Spec("logmel", "logmel", (400, 64), "float16", {**logmel.spec.constants, "decode": {}})
    with pytest.raises(ValueError, match=r"other constants than this program has \(decode\)"):
        column_of(other, options.encoder)
    with pytest.raises(ValueError, match="expected a feature"):
        column_of(Spec("mfcc", "mfcc", (1,), "float16", {}), options.encoder)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = absolute_paths(parsed("--source", "dir:clips", "--encoder-weights", "w.pth"), {})
    here = os.getcwd()
    assert (made.store, made.source, made.encoder_weights) == (f"{here}/s", f"dir:{here}/clips", f"{here}/w.pth")
    assert absolute_paths(parsed("--encoder-weights", "random:0"), {}).encoder_weights == "random:0"
    with pytest.raises(ValueError, match="throw-away copy"):
        absolute_paths(parsed(), {JOB_VARIABLE: "1"})
