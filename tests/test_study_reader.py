"""A study's folder is read in full; what is missing, damaged or foreign is said, and never fatal."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from report_samples import minimal, read, whole
from study_folder import CLASSES, CLIPS, StudyFolder, digest_of, make_minimal

from attacks.facts import VARIANTS
from attacks.study_reader import is_fit, read_study, run_name
from stores.storage import Storage


def summary_of(root: Path, folder: str) -> dict:
    return json.loads((root / folder / "summary.json").read_text())


def test_every_row_of_every_evaluation_is_a_fact() -> None:
    root, study = whole().root, whole().study
    folders = sorted(path.parent for path in root.glob("evaluations/*/summary.json"))
    rows = [row for folder in folders for part in summary_of(folder, ".")["checkpoints"] for row in part["rows"]]
    floors = [f for f in study.facts if f.kind == "floor"]
    assert len(study.facts) == len(rows) + len(floors) and len(floors) == 4
    assert {fact.place for fact in study.facts} == {"report", "fit", "transfer"}
    assert study.classes == CLASSES and study.positives[-1] == 0 and {fact.clips for fact in study.facts} == {CLIPS}


def test_a_fact_is_its_row_with_noise_norms_and_command() -> None:
    root, study = whole().root, whole().study
    part = summary_of(root, "evaluations/late-s1")["checkpoints"][0]
    row = next(row for row in part["rows"] if row["delta"] and "projected-l2-frame-eps0.3" in row["delta"])
    fact = study.attacked("late", VARIANTS[1], "2", 0.3)[1]
    assert (fact.run, fact.made_on, fact.model) == ("late-s1", "late-s1", "late")
    assert fact.metrics == {name: row[name] for name in ("mAP", "AUC", "d_prime")}
    assert list(fact.ap) == row["per_class"]["AP"]
    noise = part["noise"][row["delta"]]
    assert fact.noise_draws == 20 and fact.noise["mAP"].low == min(draw["mAP"] for draw in noise["draws"])
    record = next(
        item
        for item in summary_of(root, "attacks/late-s1/main")["perturbations"]
        if row["delta"].endswith(f"-{item['name']}")
    )
    assert fact.norms == record["norms"]
    source = study.sources[fact.source]
    data = (root / "evaluations/late-s1/summary.json").read_bytes()
    assert source.digest == hashlib.sha256(data).hexdigest() and not source.changed
    assert source.command is not None and source.command["id"] == "evaluate evaluations/late-s1"


def test_a_transferred_perturbation_knows_whom_it_was_made_against() -> None:
    found = [fact for fact in whole().study.facts if fact.place == "transfer" and fact.kind == "attacked"]
    assert (
        {fact.run for fact in found} == {fact.made_on for fact in found} == {"csn-s0", "crnn-s0", "mid2-s0", "late-s0"}
    )
    # Digests, not paths, say which run it is.
    assert digest_of("csn-s0")[:8] != digest_of("crnn-s0")[:8]


def test_a_minimal_study_says_what_it_lacks() -> None:
    study = minimal().study
    assert [run.name for run in study.runs] == ["csn-s0"] and not study.facts
    said = " | ".join(study.problems)
    for words in ("commands.jsonl is not there", "not attacked: csn-s0", "not scored on the report split: csn-s0"):
        assert words in said
    assert "no evaluation of transfer" in said


def test_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no study.json and no result"):
        read_study(Storage(str(tmp_path)))


def test_without_a_plan_models_and_seeds_are_those_of_the_folders(tmp_path: Path) -> None:
    make_minimal(tmp_path)
    (tmp_path / "study.json").unlink()
    study = read(tmp_path).study
    assert [entry.name for entry in study.models] == ["csn"] and study.seeds == (0,)
    assert any("study.json is not there" in text for text in study.problems)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("runs/csn-s0/summary.json", "{", "is damaged and was left out"),
        ("runs/csn-s0/summary.json", "[]", "not of the expected form"),
        ("runs/csn-s0/summary.json", '{"best": 3}', "not of the expected form"),
        ("evaluations/csn-s0/summary.json", '{"checkpoints": [{}]}', "not of the expected form"),
        ("evaluations/fit-csn-s0/summary.json", '{"checkpoints": 3}', "not of the expected form"),
        ("evaluations/other/summary.json", '{"checkpoints": []}', "not of the expected form"),
        ("attacks/csn-s0/main/summary.json", '{"perturbations": [{"name": "x"}], "checkpoint": "c"}', "expected form"),
        ("attacks/odd/main/summary.json", '{"perturbations": []}', "expected a folder named <model>-s<seed>"),
        ("study.json", '{"models": 3}', "not of the expected form"),
        ("study.json", "rubbish", "is damaged"),
        ("commands.jsonl", '{"id": 1}\n{\n[]\n', "line 2 is damaged"),
    ],
)
def test_damaged_files_are_named_and_the_report_is_made_all_the_same(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    make_minimal(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    found = read(tmp_path)
    assert any(said in words for words in found.study.problems), found.study.problems
    assert len(found.document.verdicts) == 3


def test_a_study_in_progress_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path, ("csn", "late"), (0, 1))
    study.train("csn-s0", "csn")
    study.attack("csn-s0", "csn")
    study.evaluate("csn-s0", "csn")
    (tmp_path / "attacks/csn-s1/main").mkdir(parents=True)
    found = read(tmp_path).study
    assert {fact.run for fact in found.facts} == {"csn-s0"}
    assert "attacks/csn-s1/main has not ended: it has no summary.json" in found.problems
    shutil.rmtree(tmp_path / "attacks")
    again = read(tmp_path).study
    assert [fact.made_on for fact in again.facts if fact.spec][:1] == ["csn-s0"]  # the evaluation knows by itself


@pytest.mark.parametrize(
    ("folder", "parsed"),
    [("runs/csn-s0", ("csn", 0)), ("csn-wide-s12", ("csn-wide", 12)), ("runs/csn", None), ("transfer", None)],
)
def test_names_of_runs(folder: str, parsed: tuple[str, int] | None) -> None:
    assert run_name(folder) == parsed
    assert is_fit("evaluations/fit-csn-s0") and not is_fit("evaluations/csn-s0")
