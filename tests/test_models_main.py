"""`python -m models` prints a table in Markdown."""

from __future__ import annotations

import runpy
import sys

import pytest
from small_models import NAMES


def test_table_has_every_model_at_its_published_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["models"])
    monkeypatch.delitem(sys.modules, "models.__main__", raising=False)
    runpy.run_module("models", run_name="__main__")
    head, rule, *rows = capsys.readouterr().out.strip().splitlines()
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns == ["model", "reads", *(f"{x}, D = {d}" for d in (512, 2048) for x in ("parameters", "GFLOPs"))]
    assert rule.count("|") == head.count("|")
    table = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)}
    assert {label.split("`")[1] for label in table} == set(NAMES)
    assert all(len(cells) == 5 for cells in table.values())
    assert table["`csn`"] == ["logmel", "12,097,662", "8.963", "same", "same"]
    assert table["`csn`, shared_blocks False"][1] == "18,399,358"
    assert table["`crnn`"][1] == "10,520,702" and table["`resnet50`"][1] == "25,661,406"
    assert table["`early`"][1::2] == ["18,390,142", "21,535,870"]
    assert table["`mid1`, video_transform raw"][1::2] == ["23,108,734", "24,681,598"]


def test_other_arguments_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["models", "--depth", "3"])
    monkeypatch.delitem(sys.modules, "models.__main__", raising=False)
    with pytest.raises(SystemExit):
        runpy.run_module("models", run_name="__main__")
    assert "--depth" in capsys.readouterr().err
