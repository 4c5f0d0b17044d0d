"""Tables 1 to 4: rows as in the paper, our numbers as in the evaluations, differences, and what is not there."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from report_samples import minimal, read, rows_of, whole
from scipy import stats
from study_folder import StudyFolder

from attacks.masks import Mask
from attacks.paper_tables import FREQ_BANDS, TABLES, RowKey
from attacks.perturbation import Spec
from attacks.tables import key_words, region_words

HOW = ["projected, ε over the clip", "projected, ε per frame", "accumulated, as released"]


def scores(run: str, part_of_name: str | None, metric: str = "mAP") -> float:
    """A number as it stands in an evaluation's file."""
    path = whole().root / f"evaluations/{run}/summary.json"
    rows = json.loads(path.read_text())["checkpoints"][0]["rows"]
    return next(row[metric] for row in rows if (row["delta"] or "clean").endswith(part_of_name or "clean"))


def expected(values: list[float]) -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("clean", None),
        (HOW[0], "projected-l2-clip-eps0.3-full-bce-s0"),
        (HOW[1], "projected-l2-frame-eps0.3-full-bce-s0"),
        (HOW[2], "accumulated-l2-frame-eps0.3-full-bce-s0"),
    ],
)
@pytest.mark.parametrize(("column", "metric"), [("mAP, ours", "mAP"), ("AUC, ours", "AUC"), ("d′, ours", "d_prime")])
def test_our_numbers_are_the_evaluations_with_a_t_interval(
    how: str, name: str | None, column: str, metric: str
) -> None:
    rows = [row for row in rows_of(whole().table("table-1")) if row["Model"] == "late fusion"]
    (row,) = [row for row in rows if row["How δ is kept small"] == how]
    assert row[column] == expected([scores(f"late-s{seed}", name, metric) for seed in (0, 1)])


def test_the_difference_is_ours_minus_the_papers() -> None:
    rows = [row for row in rows_of(whole().table("table-4")) if row["Model"] == "CSN" and row["Attack"] == "l2, ε 0.3"]
    values = [scores(f"csn-s{seed}", "projected-l2-clip-eps0.3-full-bce-s0") for seed in (0, 1)]
    assert [row["mAP, paper"] for row in rows] == ["0.221"] * 3
    mean, half = expected(values).split(" ± ")
    assert rows[0]["mAP, difference"] == f"{np.mean(values) - 0.221:+.3f} ± {half}".replace("-", "−")
    assert rows[0]["mAP, ours"].startswith(mean)


@pytest.mark.parametrize(("number", "models"), [(1, 4), (4, 4)])
def test_every_row_of_the_paper_is_there_clean_and_in_three_ways(number: int, models: int) -> None:
    rows = rows_of(whole().table(f"table-{number}"))
    assert len(rows) == models * 4
    for model in {row["Model"] for row in rows}:
        assert [row["How δ is kept small"] for row in rows if row["Model"] == model] == ["clean", *HOW]
    assert all(row["AUC, paper"] == "not on record" for row in rows)


def test_what_the_store_lacks_is_said() -> None:
    rows = rows_of(whole().table("table-1"))
    assert {row["mAP, ours"] for row in rows if row["Model"] == "early fusion"} == {"not in this store"}
    assert all(row["mAP, ours"] != "not in this store" for row in rows if row["Model"] == "late fusion")
    everything = rows_of(minimal().table("table-1"))
    assert len(everything) == 16 and {row["mAP, ours"] for row in everything} == {"not in this store"}
    assert {row["mAP, difference"] for row in everything} == {"–"}


@pytest.mark.parametrize("name", ["table-2", "table-2-linf", "table-3", "table-3-linf"])
def test_tables_2_and_3_are_of_the_best_csn_also_under_linf(name: str) -> None:
    norm = "l∞" if name.endswith("linf") else "l2"
    table = whole().table(name)
    best = whole().study.best_run("csn")
    assert best is not None and f"one run, {best.name}, the CSN with the best validation mAP" in table.caption
    rows = rows_of(table)
    assert len(rows) == 1 + 3 * len(TABLES[int(name[6])].rows)
    assert all(row["Attack"].startswith(norm) for row in rows[1:])
    (clean,) = [row for row in rows if row["How δ is kept small"] == "clean"]
    assert clean["mAP, ours"] == f"{scores(best.name, None):.3f}"
    assert clean["mAP, ours, all seeds"] == expected([scores(f"csn-s{seed}", None) for seed in (0, 1)])
    assert all(row["mAP, paper"] in ("not on record", "0.104") for row in rows)
    assert ("0.104" in {row["mAP, paper"] for row in rows}) == (name == "table-2")


def test_a_masked_row_is_of_its_own_perturbation() -> None:
    rows = rows_of(whole().table("table-2"))
    attack = "l2, ε 0.3, mel bins 20–40 (928–2537 Hz)"
    found = [row["mAP, ours"] for row in rows if row["Attack"] == attack]
    best = whole().study.best_run("csn")
    assert best is not None and len(found) == 3
    assert found[0] == f"{scores(best.name, 'projected-l2-clip-eps0.3-freq20-40-bce-s0'):.3f}"
    assert found[2] == f"{scores(best.name, 'accumulated-l2-frame-eps0.3-freq20-40-bce-s0'):.3f}"


def test_with_one_seed_the_interval_says_so(tmp_path: object) -> None:
    study = StudyFolder(tmp_path, ("csn",), (0,))  # type: ignore[arg-type]
    study.train("csn-s0", "csn")
    study.attack("csn-s0", "csn", specs=[Spec("projected", "2", "clip", "bce", 0, Mask(), 0.3)])
    study.evaluate("csn-s0", "csn")
    table = next(table for table in read(study.root).document.tables() if table.name == "table-4")
    texts = [row["mAP, ours"] for row in rows_of(table) if row["Model"] == "CSN"]
    assert all(re.fullmatch(r"0\.\d{3} \(one seed\)", text) for text in texts[:2])
    assert texts[2:] == ["not in this store"] * 2
    assert "one seed, so no interval" in table.caption


def test_captions_say_what_was_measured() -> None:
    for table in whole().document.tables():
        assert len(table.caption) > 40, table.name
    caption = whole().table("table-1").caption
    assert "the report split eval, 120 clips" in caption and "mean ± 95 % t-interval over the seeds 0, 1" in caption


def test_what_of_the_paper_contradicts_itself_is_noted() -> None:
    assert any("0.104 mAP in Table 2" in note for note in whole().table("table-2").notes)
    assert any("late fusion, l2, ε 0.3: mAP 0.27" in note for note in whole().table("table-1").notes)


def test_words_for_attacks() -> None:
    assert key_words(RowKey("csn")) == "not attacked"
    assert key_words(RowKey("csn", "inf", 0.3)) == "l∞, ε 0.3"
    assert key_words(RowKey("csn", "2", 0.1, FREQ_BANDS[0])) == "l2, ε 0.1, mel bins 0–20 (0–975 Hz)"
    assert region_words(Mask(time=(0, 200))) == "frames 0–200 (0–5 s)"
    assert region_words(Mask((3, 9), (0, 40))) == "mel bins 3–9, frames 0–40 (0–1 s)"
