"""The style sheet: its variables exist in both schemes, and text stands out from what is behind it."""

from __future__ import annotations

import re

import pytest

from attacks.page_style import STYLE


def variables(dark: bool) -> dict[str, str]:
    light, _, rest = STYLE.partition("@media (prefers-color-scheme: dark)")
    part = rest.partition("* { box-sizing")[0] if dark else light
    return dict(re.findall(r"--([a-z]+):\s*(#[0-9a-f]{6})", part))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_braces_close_and_every_variable_is_set_in_both_schemes() -> None:
    assert STYLE.count("{") == STYLE.count("}")
    used = set(re.findall(r"var\(--([a-z]+)\)", STYLE))
    assert used == set(variables(False)) == set(variables(True))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("text", "behind"),
    [
        *(("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("link", "paper"), ("link", "card")),
        *(("yes", "yesbg"), ("no", "nobg"), ("open", "openbg"), ("no", "card")),
    ],
)
def test_contrast_is_at_least_wcags_aa(text: str, behind: str, dark: bool) -> None:
    colours = variables(dark)
    assert contrast(colours[text], colours[behind]) >= 4.5


def test_tables_scroll_in_their_boxes_and_paper_is_thought_of() -> None:
    assert re.search(r"\.scroll \{ overflow-x:auto", STYLE)
    assert "@media print" in STYLE and "max-width:560px" in STYLE
