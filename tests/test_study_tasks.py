"""A study's commands: in an order that can be run, the best seed once it is known, done when the results are there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from attacks.study_config import preset
from attacks.study_tasks import StudyTasks, Task

STUDY = preset("icassp2021", "laptop")


def finish(out: Path, task: Task, mean_ap: float | None = 0.5) -> None:
    folder = out / task.folder
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"best": {"mAP": mean_ap}}))


def run_all(tasks: StudyTasks, out: Path, scores: dict[str, float | None]) -> list[str]:
    """Finishes what can be done until nothing is left; returns the order."""
    order: list[str] = []
    while True:
        listed = tasks.tasks()
        ready = [task for task in listed if not tasks.done(task) and set(task.needs) <= set(order)]
        if not ready:
            assert all(tasks.done(task) for task in listed)
            return order
        finish(out, ready[0], scores.get(ready[0].folder, 0.5))
        order.append(ready[0].folder)


def test_everything_is_run_once_and_after_what_it_needs(tmp_path: Path) -> None:
    tasks = StudyTasks(STUDY, "/store", str(tmp_path))
    order = run_all(tasks, tmp_path, {"runs/csn-s1": 0.4, "runs/csn-s2": 0.6})
    assert len(order) == len(set(order)) == tasks.expected()
    assert "attacks/csn-s2/masks" in order and "attacks/csn-s1/masks" not in order
    assert order.index("attacks/csn-s2/masks") > max(order.index(f"runs/csn-s{seed}") for seed in (1, 2))
    assert order.index("evaluations/csn-s2") > order.index("attacks/csn-s2/masks")
    assert not any("video" in folder for folder in order if not folder.startswith("runs/"))
    assert "evaluations/transfer" in order and "evaluations/fit-late-s2" in order


def test_commands_name_their_places(tmp_path: Path) -> None:
    tasks = {task.folder: task.argv for task in StudyTasks(STUDY, "s3://b/store", str(tmp_path)).tasks()}
    late = " ".join(tasks["attacks/late-s1/paper"])
    assert f"--checkpoint {tmp_path}/runs/late-s1/best.pt" in late and "--store s3://b/store" in late
    assert "--fit-split train" in late and "--select-split select" in late
    evaluation = " ".join(tasks["evaluations/late-s1"])
    assert f"--floor {tmp_path}/runs/video-s1/best.pt" in evaluation and "--split eval" in evaluation
    assert evaluation.count("--attack ") == 3
    assert "--floor" not in tasks["evaluations/crnn-s1"]


def test_of_equal_seeds_the_first_is_best_and_undefined_is_worst(tmp_path: Path) -> None:
    for scores, best in (((0.5, 0.5), 1), ((None, 0.1), 2)):
        out = tmp_path / str(best)
        tasks = StudyTasks(STUDY, "/store", str(out))
        order = run_all(tasks, out, {"runs/csn-s1": scores[0], "runs/csn-s2": scores[1]})
        assert f"attacks/csn-s{best}/masks" in order


def test_a_study_without_attacks_scores_its_models(tmp_path: Path) -> None:
    tasks = StudyTasks(replace(STUDY, attacks=(), transfer=()), "/store", str(tmp_path))
    order = run_all(tasks, tmp_path, {})
    assert len(order) == tasks.expected() == 8 * 2 + 7 * 2 * 2


def test_a_study_may_leave_the_fit_split_alone(tmp_path: Path) -> None:
    tasks = StudyTasks(replace(STUDY, gap=False), "/store", str(tmp_path))
    order = run_all(tasks, tmp_path, {})
    assert len(order) == tasks.expected() and not any("fit-" in folder for folder in order)
