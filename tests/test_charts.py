"""Charts: what is drawn can be read back from the SVG or PNG, and equal data give equal bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from attacks.charts import COLOURS, Curve, class_chart, curve_chart, delta_chart, gap_chart, matrix_chart
from attacks.intervals import Interval
from models.chance import Band


def curve(label: str, last: float = 0.2) -> Curve:
    return Curve(label, {0.1: 0.4, math.inf: last}, {0.1: 0.05}, {0.1: Band(0.48, 0.47, 0.49)})


CHARTS: dict[str, Callable[[], bytes]] = {
    "curve": lambda: curve_chart(
        "<m> $x$", [curve("a"), curve("b", 0.1), curve("c")], (0.5, 0.02), Band(0.1, 0.05, 0.15)
    ),
    "class": lambda: class_chart("m", ["<b>", "$dollar$", "x" * 60], [0.5, None, 0.7], {"a": [0.1, None, 0.2]}),
    "matrix": lambda: matrix_chart("m", ["a", "b"], [[0.1, None], [0.2, 0.3]], [0.5, 0.6]),
    "gap": lambda: gap_chart("m", ["a"], {"fit": [Interval(0.2, 0.1, 2)], "report": [None]}),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_svg_without_dates_or_links_and_the_same_each_time(name: str) -> None:
    data = CHARTS[name]()
    root = ElementTree.fromstring(data)
    assert root.tag.endswith("svg") and float(root.attrib["width"].removesuffix("pt")) < 330  # narrow as a phone
    assert data == CHARTS[name]()
    assert b"<dc:date>" not in data and b"<image" not in data and b"<script" not in data


def heights(data: bytes, colour: str) -> list[float]:
    """Vertical positions of the drawn line of that colour, downwards."""
    for element in ElementTree.fromstring(data).iter():
        if element.tag.endswith("path") and f"stroke: {colour.lower()}" in element.attrib.get("style", "").lower():
            numbers = element.attrib["d"].replace("M", " ").replace("L", " ").split()
            if len(numbers) == 6:  # three points
                return [float(number) for number in numbers[1::2]]
    raise AssertionError(f"no line of three points in {colour}")


def test_a_curve_starts_at_the_clean_point_and_falls_as_the_numbers_do() -> None:
    data = CHARTS["curve"]()
    first, second = heights(data, COLOURS[0]), heights(data, COLOURS[1])
    assert first[0] == second[0] and first[1] == second[1]
    assert (first[2] - first[0]) * 4 == pytest.approx((second[2] - second[0]) * 3, rel=1e-4)  # drops of 0.3 and 0.4
    assert (first[1] - first[0]) * 3 == pytest.approx(first[2] - first[0], rel=1e-4)


def test_colours_are_told_apart_in_brightness_too() -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    light = sorted(float(np.power(to_rgb(colour), 2.2) @ weights) for colour in COLOURS)
    assert all(b - a > 0.02 for a, b in pairwise(light))


def test_a_delta_is_red_where_it_is_louder_and_upright() -> None:
    delta = np.zeros((400, 64))
    delta[:200, :32] = 1.0
    delta[200:, 32:] = -1.0
    data = delta_chart("l2", delta)
    assert data == delta_chart("l2", delta)
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    red = (image[..., 0] - image[..., 2] > 60) & (image[..., 1] < 80)
    blue = (image[..., 2] - image[..., 0] > 60) & (image[..., 1] < 80)
    width = image.shape[1] * 3 // 4  # without the colour bar
    (red_y, red_x), (blue_y, blue_x) = np.nonzero(red[:, :width]), np.nonzero(blue[:, :width])
    assert red_y.mean() > blue_y.mean() and red_x.mean() < blue_x.mean()
