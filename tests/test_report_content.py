"""The whole report: its parts in order, its long table, and that it is the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_samples import minimal, read, whole
from study_folder import StudyFolder

from attacks.report_content import compose, numbers
from attacks.report_files import files_of
from attacks.study_reader import read_study
from stores.storage import Storage

SECTIONS = ["coverage", *(f"table-{n}" for n in range(1, 7)), "figure-2", "curves", "classes", "controls", "transfer"]


def test_sections_are_all_there_in_order_also_in_a_minimal_report() -> None:
    for sample in (whole(), minimal()):
        assert [section.name for section in sample.document.sections] == [*SECTIONS, "everything"]
        names = [table.name for table in sample.document.tables()]
        assert len(names) == len(set(names))


def test_the_same_study_gives_the_same_bytes() -> None:
    storage = Storage(str(whole().root))
    assert files_of(compose(read_study(storage), storage)) == files_of(whole().document)


def test_the_long_table_has_every_fact_at_full_precision() -> None:
    header, *rows = numbers(whole().study)
    assert len(rows) == len(whole().study.facts) and {len(row) for row in rows} == {len(header)}
    found = [dict(zip(header, row, strict=True)) for row in rows]
    summary = json.loads((whole().root / "evaluations/mid2-s1/summary.json").read_text())
    part = summary["checkpoints"][0]
    mine = [row for row in found if (row["run"], row["place"]) == ("mid2-s1", "report")]
    assert [float(row["mAP"]) for row in mine if row["condition"] != "floor"] == [row["mAP"] for row in part["rows"]]
    (row,) = [r for r in mine if (r["rule"], r["epsilon"], r["objective"]) == ("accumulated", "0.3", "bce")]
    name = next(name for name in part["noise"] if "accumulated-l2-frame-eps0.3" in name)
    assert float(row["noise_mAP_low"]) == part["noise"][name]["mAP"]["low"] and row["noise_draws"] == "20"
    assert row["command"] == "evaluate evaluations/mid2-s1" and len(row["summary_sha256"]) == 64
    assert row["delta_sha256"] == summary["deltas"][name]["sha256"]


@pytest.mark.parametrize(
    ("scale", "words"),
    [("laptop", "not to be held against the paper's"), ("full", "the paper's scale"), ("x", "does not say")],
)
def test_the_scale_is_said_at_the_top(tmp_path: Path, scale: str, words: str) -> None:
    study = StudyFolder(tmp_path, ("csn",), (0,))
    plan = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps({**plan, "scale": scale}))
    study.train("csn-s0", "csn")
    assert any(words in text for text in read(tmp_path).document.lead)


def test_controls_that_are_missing_are_named() -> None:
    section = next(item for item in minimal().document.sections if item.name == "controls")
    items = [text for part in section.parts for text in getattr(part, "items", ())]
    assert "Objectives at the same ε: not in this store." in items
    assert "Attacks without a bound: not in this store." in items


def test_every_attack_of_every_model_is_listed_with_its_controls() -> None:
    tables = {table.title: table for table in whole().document.tables()}
    assert len(tables["All attacks on csn"].rows) == 30 and len(tables["All attacks on late"].rows) == 8
    assert all(tables[f"All attacks on {name}"].folded for name in ("csn", "late"))
