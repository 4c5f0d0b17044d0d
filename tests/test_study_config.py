"""Studies as plain data, the one that ships, and what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import tyro

from attacks.attack_options import AttackOptions
from attacks.evaluate_options import EvaluateOptions
from attacks.study_config import SCALES, Study, preset
from attacks.study_tasks import StudyTasks
from pipeline.train_options import TrainOptions

OPTIONS = {"train.py": TrainOptions, "universal_pgd.py": AttackOptions, "evaluate.py": EvaluateOptions}


@pytest.mark.parametrize("scale", SCALES)
def test_studies_are_json_and_back(scale: Any) -> None:
    study = preset("icassp2021", scale)
    raw = json.loads(json.dumps(study.to_dict()))
    assert Study.from_dict(raw) == study


@pytest.mark.parametrize("scale", SCALES)
def test_every_command_of_the_paper_is_one_that_its_entry_takes(scale: Any, tmp_path: Any) -> None:
    tasks = StudyTasks(preset("icassp2021", scale), "/store", str(tmp_path), ["--workers", "2"]).tasks()
    entries = set()
    for task in tasks:
        entry = task.argv[1].rsplit("/", 1)[1]
        entries.add(entry)
        options = tyro.cli(OPTIONS[entry], args=list(task.argv[2:]))
        assert options.out == f"{tmp_path}/{task.folder}" and options.workers == 2
    assert len({task.folder for task in tasks}) == len(tasks) and len(entries) == 3


def test_the_paper_at_full_size() -> None:
    study = preset("icassp2021", "full")
    assert [plan.model for plan in study.models] == [
        "csn",
        "crnn",
        "resnet50",
        "video",
        "early",
        "mid1",
        "mid2",
        "late",
    ]
    assert len(study.seeds) == 3 and not study.train_flags  # the trainer's own defaults are the paper's
    (masks,) = (plan for plan in study.attacks if plan.name == "masks")
    assert masks.best_seed and masks.models == ("csn",)


STUDY = preset("icassp2021", "demo")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ()}, "models: one or more"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds of 0"),
        ({"seeds": ("1",)}, "seeds of 0"),
        ({"transfer": ("nothing",)}, "nothing"),
        ({"floor": "nobody"}, "nobody"),
        ({"splits": {**STUDY.splits, "fit": ()}}, "none for fit"),
        ({"attacks": (replace(STUDY.attacks[0], name="../x"),)}, "small letters"),
        ({"attacks": (replace(STUDY.attacks[0], models=("ast",)),)}, "ast"),
        ({"models": (replace(STUDY.models[0], model="ast"),)}, "model"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(STUDY, **changes)


@pytest.mark.parametrize("raw", [{}, {**STUDY.to_dict(), "more": 1}, {**STUDY.to_dict(), "models": [{"nom": "x"}]}, []])
def test_what_is_no_study_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="study"):
        Study.from_dict(raw)


def test_only_known_presets() -> None:
    with pytest.raises(ValueError, match="icassp2021"):
        preset("icassp2022", "full")
