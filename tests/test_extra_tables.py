"""Objectives, fit against report, steps, no bound, released runs, coverage: numbers against the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from report_samples import minimal, read, rows_of, whole
from scipy import stats
from study_folder import StudyFolder

from attacks.extra_tables import objectives_table, setting_words, settings_of, steps_table
from attacks.masks import Mask
from attacks.paper_tables import RELEASED_RUNS
from attacks.perturbation import Spec

CLIP = "projected-l2-clip-eps0.3-full-{}-s0"


def scores(folder: str, name: str | None = None) -> float:
    rows = json.loads((whole().root / f"evaluations/{folder}/summary.json").read_text())["checkpoints"][0]["rows"]
    return next(row["mAP"] for row in rows if (row["delta"] or row["kind"]).endswith(name or "clean"))


def expected(values: list[float], digits: int = 3, sign: str = "") -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


def test_objectives_are_compared_at_one_epsilon_by_the_ratio_of_drops() -> None:
    rows = rows_of(whole().table("objectives"))
    assert [row["Model"] for row in rows] == ["csn", "crnn", "mid2", "late"]
    ratios = []
    for seed in (0, 1):
        clean = scores(f"mid2-s{seed}")
        drops = [clean - scores(f"mid2-s{seed}", CLIP.format(name)) for name in ("rank", "bce")]
        ratios.append(drops[0] / drops[1])
    assert rows[2]["ratio of drops, rank to bce"] == expected(ratios, 2)
    assert rows[2]["mAP, bounded"] == expected([scores(f"mid2-s{seed}", CLIP.format("bounded")) for seed in (0, 1)])


def test_the_gap_is_the_fit_splits_drop_minus_the_reports() -> None:
    rows = rows_of(whole().table("gap"))
    wanted = ("late", "l2, ε 0.3; projected, ε over the clip", "bce")
    (row,) = [r for r in rows if (r["Model"], r["Attack"], r["objective"]) == wanted]
    fit, report = (
        [scores(f"{place}late-s{seed}") - scores(f"{place}late-s{seed}", CLIP.format("bce")) for seed in (0, 1)]
        for place in ("fit-", "")
    )
    assert row["drop of mAP, fit split"] == expected(fit, sign="+")
    assert row["drop of mAP, report split"] == expected(report, sign="+")
    assert row["gap"] == expected([a - b for a, b in zip(fit, report, strict=True)], sign="+")


def test_an_attack_without_a_bound_stands_beside_chance() -> None:
    (row,) = rows_of(whole().table("unbounded"))
    name = "projected-l2-clip-epsinf-full-bce-s0"
    assert row["mAP, attacked"] == expected([scores(f"csn-s{seed}", name) for seed in (0, 1)])
    assert row["Attack"] == "l2, without bound; projected, ε over the clip" and row["measured l2 of δ"] == "8"


def test_attacks_of_one_setting_with_other_numbers_of_steps_are_put_side_by_side(tmp_path: Path) -> None:
    assert not steps_table(whole().study).rows
    study = StudyFolder(tmp_path, ("csn",), (0,))
    for name, steps in (("main", 8), ("double", 16)):
        study.attack("csn-s0", "csn", name, [Spec("projected", "2", "clip", "bce", 0, Mask(), 0.3)], steps)
    rows = rows_of(steps_table(read(tmp_path).study))
    assert [row["steps"] for row in rows] == ["8", "16"]
    assert [row["objective on select"] for row in rows] == ["0.53800", "0.54600"]
    assert {row["clean"] for row in rows} == {"0.21000"}


def test_released_runs_are_beside_ours_and_called_what_they_are() -> None:
    table = whole().table("released")
    rows = rows_of(table)
    assert len(rows) == len(RELEASED_RUNS) == len(table.notes)
    assert "Not the paper's numbers" in table.caption
    late = next(row for row in rows if row["Model"] == "late fusion")
    ours = [scores(f"late-s{seed}") for seed in (0, 1)]
    assert late["mAP, notebook"] == "0.426546" and late["mAP, ours"] == expected(ours)
    assert rows[0]["mAP, ours"] == "not in this store"  # early


def test_coverage_says_how_far_every_run_has_come() -> None:
    rows = rows_of(whole().table("coverage"))
    assert [row["Run"] for row in rows] == [f"{m}-s{s}" for m in ("csn", "crnn", "mid2", "late") for s in (0, 1)]
    assert rows[0]["mAP, clean, report split"] == f"{scores('csn-s0'):.3f}"
    assert rows[0]["attacks scored, transfer"] != "none" == rows[1]["attacks scored, transfer"]
    (only,) = rows_of(minimal().table("coverage"))
    assert only["perturbations made"] == "none" and only["validation mAP"].startswith("0.")


def test_settings_are_listed_once_and_said_in_words() -> None:
    study = whole().study
    entry = study.entry_of("csn")
    assert entry is not None
    found = settings_of(study, entry)
    assert len(found) == len(set(found)) == 30
    assert setting_words(("accumulated", "frame", "inf", 0.3, "freq0-20", "bce")) == (
        "l∞, ε 0.3, mel bins 0–20 (0–975 Hz); accumulated, as released"
    )


@pytest.mark.parametrize("name", ["objectives", "gap", "steps", "unbounded"])
def test_a_table_without_rows_is_not_shown_empty(name: str) -> None:
    assert not objectives_table(minimal().study).rows
    assert name not in [table.name for table in minimal().document.tables()]
