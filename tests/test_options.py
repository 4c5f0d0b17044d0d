"""Options: defaults that depend on the source, and paths that mean the same on every node."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from pipeline.options import JOB_VARIABLE, IngestOptions, absolute_folder, absolute_path, absolute_paths

BASE = IngestOptions(store="s", source="dir:clips", segments=("mine=a.csv", "eval"))


def test_a_command_line_becomes_options() -> None:
    line = "--store /s --source youtube --segments eval --segments mine=x.csv --retry gone,unreachable --columns none"
    options = tyro.cli(IngestOptions, args=line.split())
    assert options.segments == ("eval", "mine=x.csv")
    assert options.retry_causes == {"gone", "unreachable"}
    assert options.column_names == []


def test_media_are_kept_unless_they_stay_where_they_are() -> None:
    assert not BASE.keep_media
    assert replace(BASE, media="keep").keep_media
    assert replace(BASE, source="youtube").keep_media
    assert replace(BASE, source="http:https://h/{ytid}").keep_media
    assert not replace(BASE, source="youtube", media="drop").keep_media


def test_youtube_has_a_budget_by_default() -> None:
    assert replace(BASE, source="youtube").per_hour == 300
    assert BASE.per_hour is None
    assert replace(BASE, source="youtube", videos_per_hour=20.0).per_hour == 20


def test_local_paths_are_made_absolute_for_workers_elsewhere() -> None:
    fixed = absolute_paths(replace(BASE, labels="l.csv", encoder_weights="w.pth"), {})
    here = os.getcwd()
    assert fixed.store == f"{here}/s"
    assert fixed.source == f"dir:{here}/clips"
    assert fixed.segments == (f"mine={here}/a.csv", "eval")
    assert (fixed.labels, fixed.encoder_weights) == (f"{here}/l.csv", f"{here}/w.pth")
    kept = replace(BASE, store="s3://b/p", source="http:http://h/{ytid}", segments=("m=s3://b/l.csv",))
    assert absolute_paths(replace(kept, encoder_weights="random:0"), {}) == replace(kept, encoder_weights="random:0")


def test_what_is_empty_or_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected --out of a path or a URI, got an empty one"):
        absolute_folder("--out", "", {})
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ValueError, match=r"expected --out of a folder, .*/file is a file"):
        absolute_folder("--out", str(tmp_path / "file"), {})
    assert absolute_path("--checkpoint", str(tmp_path / "file"), {}) == str(tmp_path / "file")
    assert absolute_folder("--out", "s3://b/x", {JOB_VARIABLE: "1"}) == "s3://b/x"


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({}, "--store s"),
        ({"store": "/s"}, "--source dir:clips"),
        ({"store": "/s", "source": "youtube"}, "--segments mine=a.csv"),
        ({"store": "/s", "source": "youtube", "segments": ("eval",), "labels": "l.csv"}, "--labels l.csv"),
    ],
)
def test_inside_a_job_relative_paths_are_refused(change: dict, flag: str) -> None:
    with pytest.raises(ValueError, match="absolute path") as caught:
        absolute_paths(replace(BASE, **change), {JOB_VARIABLE: "{}"})
    assert flag in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"fetch_threads": 0},
        {"max_failed_fraction": 1.5},
        {"columns": "mfcc"},
        {"retry": "gone,throttled"},
        {"source": "ftp:x"},
        {"window_frames": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused_at_once(change: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(BASE, **change)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"store": ""}, "--store"),
        ({"store": "memory://x"}, "--store"),
        ({"proxy": "garbage"}, "--proxy"),
        ({"fetch_deadline": 0.0}, "--fetch-deadline"),
        ({"fetch_deadline": float("nan")}, "--fetch-deadline"),
        ({"videos_per_hour": 1e-300}, "--videos-per-hour"),
    ],
)
def test_what_would_fail_every_clip_is_refused_at_once(change: dict, flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        replace(BASE, **change)
