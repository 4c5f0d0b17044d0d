"""How numbers are written, and tables that do not fit."""

from __future__ import annotations

import pytest

from attacks.document import (
    Cell,
    Table,
    absent,
    band_cell,
    fixed,
    interval_text,
    mean_cell,
    plain_cell,
    sources_of,
    words,
)
from attacks.intervals import Interval
from models.chance import Band


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.2214, False, "0.221"),
        (0.0131, True, "+0.013"),
        (-0.0131, True, "−0.013"),
        (-0.0001, False, "0.000"),
        (-0.0001, True, "+0.000"),
    ],
)
def test_numbers(value: float, sign: bool, text: str) -> None:
    assert fixed(value, 3, sign) == text


def test_intervals_and_one_seed() -> None:
    assert interval_text(Interval(0.22149, 0.0131, 3)) == "0.221 ± 0.013"
    assert interval_text(Interval(-0.2, 0.01, 2), 2, sign=True) == "−0.20 ± 0.01"
    assert interval_text(Interval(0.5, None, 1)) == "0.500 (one seed)"


def test_cells() -> None:
    assert mean_cell({1: 0.2, 0: 0.2}, ("a",)) == Cell("0.200 ± 0.000", ("a",), "number")
    assert mean_cell({}, ("a",)) == absent("not defined")
    bands = [Band(0.2, 0.1, 0.3), Band(0.4, 0.3, 0.5)]
    assert band_cell(bands, ("a",)).text == "0.300 [0.200, 0.400]"
    assert band_cell([], ()) == absent("not measured")
    assert plain_cell([0.3, 0.3], ("a",)).text == "0.3" and plain_cell([5.9, 6.1], ()).text == "5.9 to 6.1"
    assert plain_cell([], ()).kind == "none" and sources_of() == ()


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected rows of 2 cells, got one of 1"):
        Table("x", "X", "", ("a", "b"), ((words("1"),),))
