"""Warnings: each is there for a study that deserves it, and for no other."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from report_samples import read, whole
from study_folder import SPLITS, StudyFolder

from attacks.attack_words import NOT_BETTER
from attacks.masks import Mask
from attacks.perturbation import Spec

SPEC = Spec("projected", "2", "clip", "bce", 0, Mask(), 0.3)


@functools.cache
def _made(draws: int) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="avlens-study-")
    study = StudyFolder(Path(folder.name), ("csn",), (0, 1))
    for run, model, _ in study.runs():
        study.train(run, model)
        study.attack(run, model, specs=[SPEC])
        summary = study._evaluation([(run, model)], [run], "eval", draws)
        study._summary(f"evaluations/{run}", summary, ["python"], f"evaluate {run}")
    study.write_commands()
    return folder


def small(root: Path, draws: int = 20) -> StudyFolder:
    """A study of two runs with an attack each, made once and copied."""
    shutil.copytree(_made(draws).name, root, dirs_exist_ok=True)
    return StudyFolder(root, ("csn",), (0, 1))


def said(root: Path) -> str:
    return " | ".join(read(root).study.warnings)


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_sample_has_these_and_no_others() -> None:
    failed, weak, empty = whole().study.warnings
    assert failed == "the command 'train again' ended with exit code 1"
    assert "did no more harm than noise of their norm" in weak
    assert empty == "1 of 12 classes have no clip in the report split and count in no mean"


def test_weak_attacks_are_those_not_below_every_draw() -> None:
    facts = [fact for fact in whole().study.facts if fact.kind == "attacked" and fact.place == "report"]
    weak = [fact for fact in facts if fact.metrics["mAP"] >= fact.noise["mAP"].low]
    (text,) = [text for text in whole().study.warnings if "no more harm than noise" in text]
    assert text.startswith(f"{len(weak)} of {len(facts)} attacks")


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"select": ["balanced"]}, "fit and select are the same clips"),
        ({"fit": ["eval"]}, "fit and report are the same clips"),
        ({"select": ["eval"]}, "select and report are the same clips"),
        ({"valid": ["eval", "valid"]}, "valid and report are the same clips, in whole or in part: both have eval"),
        ({"report": ["other"]}, "scored on eval, the study says other"),
    ],
)
def test_shared_and_other_splits(tmp_path: Path, splits: dict[str, list[str]], words: str) -> None:
    small(tmp_path)
    assert words not in said(tmp_path)
    change(tmp_path / "study.json", splits={**SPLITS, **splits})
    assert words in said(tmp_path)


@pytest.mark.parametrize("role", ["fit", "select"])
def test_the_very_clips_are_known_by_their_snapshot(tmp_path: Path, role: str) -> None:
    small(tmp_path)
    words = f"attacks were {role}ted on" if role == "fit" else "attacks were selected on"
    assert words not in said(tmp_path)
    change(tmp_path / "attacks/csn-s0/main/summary.json", **{f"{role}_snapshot": "snapshot eval"})
    assert words in said(tmp_path)


def test_what_an_attack_warns_of_is_passed_on(tmp_path: Path) -> None:
    small(tmp_path)
    change(tmp_path / "attacks/csn-s1/main/summary.json", warnings=["fitted and selected on the same split: x"])
    assert "attacks/csn-s1/main: fitted and selected on the same split: x" in said(tmp_path)


def test_a_changed_file_and_a_missing_command(tmp_path: Path) -> None:
    small(tmp_path)
    assert "has changed" not in said(tmp_path) and "no command" not in said(tmp_path)
    lines = (tmp_path / "commands.jsonl").read_text().splitlines()
    (tmp_path / "commands.jsonl").write_text("\n".join(line for line in lines if "runs/csn-s1" not in line))
    path = tmp_path / "runs/csn-s0/summary.json"
    path.write_text(path.read_text() + "\n")
    assert "runs/csn-s0/summary.json has changed since its command ended" in said(tmp_path)
    assert "no command is on record for runs/csn-s1" in said(tmp_path)


def test_few_draws_and_one_seed(tmp_path: Path) -> None:
    study = small(tmp_path, draws=3)
    assert "2 of 2 attacked scores have fewer than 20 draws" in said(tmp_path)
    assert "one seed" not in said(tmp_path)
    alone = StudyFolder(tmp_path / "alone", ("csn",), (0,))
    alone.train("csn-s0", "csn")
    assert "one seed" in said(tmp_path / "alone")
    assert study.seeds == (0, 1)


def test_a_model_no_better_than_chance_is_named(tmp_path: Path) -> None:
    small(tmp_path)
    assert "no better than chance" not in said(tmp_path)
    path = tmp_path / "evaluations/csn-s1/summary.json"
    found = json.loads(path.read_text())
    found["checkpoints"][0]["chance"]["mean_ap"] = {"mean": 0.9, "low": 0.8, "high": 0.99}
    path.write_text(json.dumps(found))
    assert "without any attack these are no better than chance, so an attack on them says nothing: csn-s1" in said(
        tmp_path
    )


def test_steps_that_were_not_taken_are_told(tmp_path: Path) -> None:
    small(tmp_path)
    path = tmp_path / "attacks/csn-s0/main/summary.json"
    found = json.loads(path.read_text())
    found["perturbations"][0]["still_share"] = 0.25
    path.write_text(json.dumps(found))
    assert "could not take some of their steps" in said(tmp_path) and "25.0%" in said(tmp_path)


def test_damage_comes_first(tmp_path: Path) -> None:
    small(tmp_path)
    (tmp_path / "study.json").write_text("{")
    (tmp_path / "evaluations/csn-s1/summary.json").write_text("{")
    first, second, *_ = read(tmp_path).study.warnings
    assert first.startswith("study.json is damaged") and second.startswith("evaluations/csn-s1/summary.json is damaged")


def test_perturbations_that_are_zero_are_one_warning(tmp_path: Path) -> None:
    small(tmp_path)
    for seed in (0, 1):
        path = tmp_path / f"attacks/csn-s{seed}/main/summary.json"
        summary = json.loads(path.read_text())
        (item,) = summary["perturbations"]
        item["norms"] = dict.fromkeys(item["norms"], 0.0)
        change(path, perturbations=[item], warnings=[f"{NOT_BETTER}: {item['name']}", "left out: x"])
    found = [text for text in read(tmp_path).study.warnings if "zero" in text or NOT_BETTER in text]
    assert len(found) == 1 and found[0].startswith("2 of 2 perturbations are zero")
    assert "left out: x" in said(tmp_path)
