"""What the study's flags make, and words for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tyro

from attacks.study_config import preset
from attacks.study_options import StudyOptions, absolute_paths
from pipeline.options import JOB_VARIABLE

NEEDED = ["--store", "s", "--out", "o"]


def parsed(*more: str) -> StudyOptions:
    return tyro.cli(StudyOptions, args=[*NEEDED, *more])


def test_a_preset_with_changes() -> None:
    options = parsed(
        "--preset", "icassp2021", "--scale", "laptop", "--seed", "7", "--report-split", "test", "--workers", "3"
    )
    study = options.study()
    assert study.seeds == (7,) and study.splits["report"] == ("test",)
    assert study.models == preset("icassp2021", "laptop").models
    assert options.job_flags == ["--workers", "3", "--cpus-per-worker", "2"]


def test_a_study_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(preset("icassp2021", "demo").to_dict()))
    assert parsed("--config", str(path)).study() == preset("icassp2021", "demo")
    path.write_text("{")
    with pytest.raises(ValueError, match=r"expected a study as JSON at .*study\.json: Expecting"):
        parsed("--config", str(path)).study()
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"study\.json: expected a study as --print-config shows one.* no 'models'"):
        parsed("--config", str(path)).study()
    with pytest.raises(ValueError, match="expected a study as JSON"):
        parsed("--config", str(tmp_path / "none")).study()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="both or neither"):
        StudyOptions("s", "o")
    with pytest.raises(ValueError, match="both or neither"):
        StudyOptions("s", "o", preset="icassp2021", config="x")
    with pytest.raises(ValueError, match="--seed of 0"):
        StudyOptions("s", "o", preset="icassp2021", seed=(-1,))
    with pytest.raises(ValueError, match="--at-once"):
        StudyOptions("s", "o", preset="icassp2021", at_once=0)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = absolute_paths(parsed("--preset", "icassp2021"), {})
    assert (made.store, made.out) == (f"{tmp_path}/s", f"{tmp_path}/o")
    with pytest.raises(ValueError, match="--store s is relative"):
        absolute_paths(parsed("--preset", "icassp2021"), {JOB_VARIABLE: "1"})
