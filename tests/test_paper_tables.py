"""The paper's numbers: rows as RECIPE.md 5 lists them, numbers that agree or disagree as stated, gaps that are said."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from scipy.stats import norm

from attacks.paper_tables import (
    CONCLUSIONS,
    FIGURE_2,
    FREQ_BANDS,
    INCONSISTENCIES,
    RELEASED_RUNS,
    TABLES,
    TIME_HALVES,
    UNPLACED,
    ReleasedRun,
    Row,
    RowKey,
    numbers_of,
)
from models.metrics import METRICS
from models.registry import MODELS

PRINTED_ROWS = [row for table in TABLES.values() for row in table.rows]
ALL_ROWS = [*PRINTED_ROWS, *UNPLACED, *(run.row for run in RELEASED_RUNS)]
ALL_KEYS = [*(row.key for row in ALL_ROWS), *FIGURE_2.panels]


@pytest.mark.parametrize(
    ("number", "models", "epsilons", "rows"),
    [
        (1, {"early", "mid1", "mid2", "late"}, {0.3}, 4),
        (2, {"csn"}, {0.1, 0.3}, 8),
        (3, {"csn"}, {0.1, 0.3}, 4),
        (4, {"resnet50", "crnn", "csn", "late"}, {0.3}, 4),
        (5, set(), set(), 0),
        (6, set(), set(), 0),
    ],
)
def test_rows_are_the_recipes(number: int, models: set[str], epsilons: set[float], rows: int) -> None:
    table = TABLES[number]
    keys = [row.key for row in table.rows]
    assert table.number == number and table.source.endswith(f"Table {number}")
    assert len(keys) == len(set(keys)) == rows
    assert {key.model for key in keys} == models
    assert {key.epsilon for key in keys} == epsilons
    assert {key.norm for key in keys} <= {"2"}


def test_there_are_six_tables_of_three_metrics() -> None:
    assert list(TABLES) == [1, 2, 3, 4, 5, 6]
    assert all(table.columns == METRICS for table in TABLES.values())
    assert all(set(row.values) == set(METRICS) for row in ALL_ROWS)


def test_masks_cut_the_input_without_gap_or_overlap() -> None:
    for ranges, size in ((FREQ_BANDS, 64), (TIME_HALVES, 400)):
        assert ranges[0][0] == 0 and ranges[-1][1] == size
        assert all(first[1] == second[0] for first, second in pairwise(ranges))
    assert {key.freq for key in ALL_KEYS} == {None, *FREQ_BANDS}
    assert {key.time for key in ALL_KEYS} == {None, *TIME_HALVES}


def test_models_are_in_the_registry() -> None:
    assert {key.model for key in ALL_KEYS} <= set(MODELS)


def test_classes_are_audiosets(shared_data: Path) -> None:
    with (shared_data / "class_labels_indices.csv").open(newline="") as file:
        names = {row["display_name"] for row in csv.DictReader(file)}
    assert {key.class_name for key in ALL_KEYS if key.class_name} <= names


def test_numbers_are_in_range() -> None:
    for row in ALL_ROWS:
        for name in ("mAP", "AUC"):
            value = row.values[name]
            assert value is None or 0 < value < 1


def test_a_table_with_gaps_says_so() -> None:
    for table in TABLES.values():
        gaps = not table.rows or any(value is None for row in table.rows for value in row.values.values())
        assert bool(table.missing) == gaps


def test_the_numbers_on_record_are_the_recipes() -> None:
    on_record = {
        (table.number, row.key.model, name): value
        for table in TABLES.values()
        for row in table.rows
        for name, value in row.values.items()
        if value is not None
    }
    assert on_record == {(2, "csn", "mAP"): 0.104, (4, "csn", "mAP"): 0.221}
    assert [(row.key, row.values["mAP"]) for row in UNPLACED] == [(RowKey("late", "2", 0.3), 0.27)]
    assert all(TABLES[number].find(UNPLACED[0].key) for number in (1, 4))


def test_csn_at_the_same_setting_differs_between_tables_2_and_4() -> None:
    found = dict(numbers_of(RowKey("csn", "2", 0.3)))
    assert set(found) == {2, 4}
    assert found[4] > 2 * found[2]
    assert any(item.tables == (2, 4) and item.computable for item in INCONSISTENCIES)


def test_d_prime_follows_from_auc_but_in_tables_1_and_4() -> None:
    stated = next(item for item in INCONSISTENCIES if "d′" in item.statement)
    assert stated.tables == (1, 4)
    gaps = {number: [row.d_prime_gap for row in table.rows] for number, table in TABLES.items()}
    for number, of_table in gaps.items():
        known = [abs(gap) for gap in of_table if gap is not None]
        if number not in stated.tables:
            assert all(gap < 0.02 for gap in known)  # three decimals of an AUC near 0.97 move d′ by 0.01
    assert stated.computable == all(any(gap is not None for gap in gaps[number]) for number in stated.tables)


@pytest.mark.parametrize("run", RELEASED_RUNS, ids=lambda run: run.row.key.model)
def test_d_prime_of_the_released_runs_follows_from_auc(run: ReleasedRun) -> None:
    row = run.row
    assert row.d_prime_gap == pytest.approx(0, abs=2e-5)
    assert row.values["d_prime"] == pytest.approx(2**0.5 * norm.ppf(row.values["AUC"]), abs=2e-5)


def test_d_prime_gap_sees_a_wrong_d_prime() -> None:
    key = RowKey("csn")
    assert Row(key, {"mAP": 0.4, "AUC": 0.97, "d_prime": 3.0}).d_prime_gap == pytest.approx(3 - 2**0.5 * norm.ppf(0.97))
    assert Row(key, {"mAP": 0.4, "AUC": None, "d_prime": 3.0}).d_prime_gap is None


def test_released_video_alone_is_near_the_papers_attacked_late() -> None:
    clean = {run.row.key.model: run.row.values["mAP"] for run in RELEASED_RUNS if run.row.key.norm is None}
    video, late, attacked = clean["video"], clean["late"], UNPLACED[0].values["mAP"]
    assert video is not None and late is not None and attacked is not None
    assert video < attacked < late
    assert (attacked - video) / (late - video) < 0.2
    assert all(value is not None and value >= video for value in clean.values())


def test_look_up() -> None:
    table = TABLES[2]
    assert table.value(RowKey("csn", "2", 0.3), "mAP") == 0.104
    assert table.value(RowKey("csn", "2", 0.3, (0, 20)), "mAP") is None
    assert table.find(RowKey("csn", "2", 0.3, (0, 20))) is not None
    assert table.find(RowKey("crnn", "2", 0.3)) is None
    assert list(numbers_of(RowKey("csn", "2", 0.3), "AUC")) == []
    with pytest.raises(ValueError, match="one of mAP, AUC, d_prime expected, got 'd'"):
        table.value(RowKey("csn", "2", 0.3), "d")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "3", "epsilon": 0.1}, "norm: '1', '2', 'inf' or None expected"),
        ({"norm": "2"}, "both or neither"),
        ({"epsilon": 0.1}, "both or neither"),
        ({"freq": (0, 20)}, "only of an attack"),
    ],
)
def test_keys_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RowKey("csn", **arguments)  # type: ignore[arg-type]


def test_three_conclusions_and_figure_2() -> None:
    assert len(CONCLUSIONS) == 3
    assert all(item.question.endswith("?") and item.basis for item in CONCLUSIONS)
    assert [item.answer is not None for item in CONCLUSIONS] == [True, False, False]
    assert [panel.norm for panel in FIGURE_2.panels] == ["2", "2", "2", "inf"]
