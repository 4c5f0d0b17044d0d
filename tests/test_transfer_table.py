"""The transfer matrix: who was attacked with whose perturbation."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from report_samples import minimal, rows_of, whole
from study_folder import digest_of

from attacks.facts import VARIANTS, Study
from attacks.transfer_table import transfer_matrix, transfer_table

RUNS = ("csn-s0", "crnn-s0", "mid2-s0", "late-s0")


@pytest.mark.parametrize(
    ("number", "rule", "scope"), [(1, "projected", "clip"), (2, "projected", "frame"), (3, "accumulated", "frame")]
)
def test_cells_are_the_evaluations(number: int, rule: str, scope: str) -> None:
    rows = rows_of(whole().table(f"transfer-{number}"))
    parts = json.loads((whole().root / "evaluations/transfer/summary.json").read_text())["checkpoints"]
    assert [row["δ"] for row in rows] == ["clean", *(f"made against {run}" for run in RUNS)]
    for run, part in zip(RUNS, parts, strict=True):
        found = {row["delta"]: row["mAP"] for row in part["rows"]}
        assert rows[0][f"on {run}"] == f"{found[None] if run in ('csn-s0', 'crnn-s0') else part['rows'][0]['mAP']:.3f}"
        for row, source in zip(rows[1:], RUNS, strict=True):
            mine = [name for name in found if name and name.startswith(digest_of(source)[:8])]
            (name,) = (name for name in mine if name.endswith(f"-{rule}-l2-{scope}-eps0.3-full-bce-s0"))
            assert row[f"on {run}"] == f"{found[name]:.3f}"


def test_many_runs_are_put_together_by_model_over_pairs_of_one_seed() -> None:
    study = whole().study
    doubled: list[object] = []
    for seed in range(4):
        for fact in study.facts:
            if fact.place == "transfer":
                made = f"{fact.made_on.rpartition('-s')[0]}-s{seed}" if fact.made_on else ""
                metrics = {**fact.metrics, "mAP": (fact.metrics["mAP"] or 0) + 0.1 * seed}
                run = f"{fact.entry}-s{seed}"
                doubled.append(replace(fact, seed=seed, run=run, made_on=made, metrics=metrics))
                if made:  # a pair of two seeds, which does not count
                    doubled.append(replace(fact, seed=seed, run=run, made_on=f"{made}9", metrics={"mAP": 99.0}))
    many: Study = replace(study, facts=tuple(doubled), seeds=(0, 1, 2, 3, 9, 19, 29, 39))  # type: ignore[arg-type]
    single, matrix = transfer_matrix(study, VARIANTS[0]), transfer_matrix(many, VARIANTS[0])
    assert single is not None and matrix is not None
    assert matrix.names == ("csn", "crnn", "mid2", "late") and not matrix.by_run
    value, one = matrix.value("csn", "late"), single.value("csn-s0", "late-s0")
    assert value is not None and one is not None and value == pytest.approx(one + 0.15)
    assert "Means over pairs of one seed" in transfer_table("x", matrix).caption


def test_without_an_evaluation_of_transfer_there_is_no_matrix() -> None:
    assert transfer_matrix(minimal().study, VARIANTS[0]) is None
    section = next(item for item in minimal().document.sections if item.name == "transfer")
    assert section.paragraphs == ("Not in this store.",) and not section.parts
