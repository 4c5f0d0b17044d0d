"""A perturbation's picture shows where it is and which way it goes."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.image import imread

from attacks.delta_picture import draw_delta
from attacks.perturbation import SHAPE, measured


def pixels(delta: np.ndarray) -> np.ndarray:
    return imread(io.BytesIO(draw_delta(delta, "name", measured(delta))), format="png")[..., :3]


def test_louder_is_red_and_softer_is_blue() -> None:
    delta = np.zeros(SHAPE)
    delta[:200, :32], delta[200:, 32:] = 1.0, -1.0
    shown = pixels(delta)
    assert shown.shape[:2] == (400, 800)
    middle = shown[60:330, 80:640]
    low_left, high_right = middle[-60, 60], middle[60, -100]
    assert low_left[0] > 0.3 and low_left[0] > 3 * low_left[2]  # dark red: low bins are at the bottom
    assert high_right[2] > 0.3 and high_right[2] > 3 * high_right[0]  # dark blue


def test_nothing_is_a_picture_too() -> None:
    assert pixels(np.zeros(SHAPE)).shape[:2] == (400, 800)
