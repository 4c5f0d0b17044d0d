"""Tables 5 and 6: which classes, and their numbers from the per-class metrics."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from report_samples import minimal, rows_of, whole
from scipy import stats
from study_folder import CLASSES

from attacks.class_tables import class_values, classes_shown, index_of, top_classes


def clean_row(run: str) -> dict:
    path = whole().root / f"evaluations/{run}/summary.json"
    return json.loads(path.read_text())["checkpoints"][0]["rows"][0]


def expected(values: list[float]) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def test_the_classes_are_those_with_most_clips_while_the_papers_are_not_on_record() -> None:
    positives = clean_row("csn-s0")["positives"]
    found = classes_shown(whole().study)
    assert len(found) == 8 and "No clip has this" not in found
    counts = [positives[[name for _, name in CLASSES].index(name)] for name in found]
    assert counts == sorted(positives, reverse=True)[:8]
    assert "The paper's eight classes are not on record" in whole().table("table-5").caption


def test_a_classs_numbers_are_its_own() -> None:
    rows = rows_of(whole().table("table-5"))
    assert len(rows) == 8 * 2 * 4
    (row,) = [r for r in rows if (r["Class"], r["Model"], r["Attack"]) == ("Music", "CSN", "clean")]
    found = [clean_row(f"csn-s{seed}") for seed in (0, 1)]
    aucs = [item["per_class"]["AUC"][1] for item in found]
    assert row["AP, ours"] == expected([item["per_class"]["AP"][1] for item in found])
    assert row["AUC, ours"] == expected(aucs)
    assert row["d′, ours"] == expected([float(np.sqrt(2) * stats.norm.ppf(value)) for value in aucs])
    assert row["Clips"] == str(found[0]["positives"][1]) and row["AP, paper"] == "not on record"


def test_a_class_that_no_clip_has_is_not_in_the_store() -> None:
    study = whole().study
    assert index_of(study, "No clip has this") is None and index_of(study, "nothing of that name") is None
    assert index_of(study, "Car") == 2
    assert class_values(study.by_seed("csn", "clean"), None, "mAP") == {}


def test_d_prime_of_a_perfect_class_is_left_out() -> None:
    fact = next(iter(whole().study.by_seed("csn", "clean").values()))
    assert class_values({0: replace(fact, auc=(1.0, 0.5))}, 0, "d_prime") == {}
    assert class_values({0: replace(fact, auc=(1.0, 0.5))}, 1, "d_prime") == {0: 0.0}


def test_table_6_ranks_by_the_mean_over_seeds() -> None:
    rows = rows_of(whole().table("table-6"))
    aps = np.array([clean_row(f"csn-s{seed}")["per_class"]["AP"][:11] for seed in (0, 1)])
    order = np.argsort(-aps.mean(0), kind="stable")[:10]
    assert [row["clean, class"] for row in rows] == [CLASSES[i][1] for i in order]
    assert rows[0]["clean, AP"] == expected(aps[:, order[0]].tolist())
    clean = {row["clean, class"] for row in rows}
    column = "attacked: projected, ε per frame, class"
    kept = len(clean & {row[column] for row in rows})
    assert f"{kept} of 10 (projected, ε per frame)" in whole().table("table-6").caption


def test_without_a_score_there_is_no_class() -> None:
    assert classes_shown(minimal().study) == [] and top_classes(minimal().study, {}) == []
    assert minimal().table("table-5").rows == () == minimal().table("table-6").rows
