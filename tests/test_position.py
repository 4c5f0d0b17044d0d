"""Positions: to JSON and back, and only where they belong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.order import sequential, uniform
from stores.position import Position


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 50), st.integers(0, 10_000), st.integers(0, 2**40))
def test_a_draw_survives_json(count: int, draw: int, seed: int) -> None:
    order = uniform(count, seed)
    text = json.dumps(Position.at("d1", order, draw).to_dict())
    position = Position.from_dict(json.loads(text))
    assert position.draw("d1", order) == draw
    assert (position.epoch, position.offset) == (draw // count, draw % count)


def test_another_snapshot_order_or_seed_is_refused_by_name() -> None:
    position = Position.at("d1", uniform(10, 3), 25)
    for digest, order, word in (
        ("d2", uniform(10, 3), "snapshot_digest 'd1', not 'd2'"),
        ("d1", uniform(10, 4), "seed 3, not 4"),
        ("d1", sequential(10, 3), "order 'uniform', not 'sequential'"),
    ):
        with pytest.raises(ValueError, match=word):
            position.draw(digest, order)


def test_an_offset_beyond_the_epoch_is_refused() -> None:
    order = uniform(10, 0)
    for change in ({"offset": 10}, {"offset": -1}, {"epoch": -1}):
        with pytest.raises(ValueError, match="expected epoch >= 0 and an offset"):
            replace(Position.at("d", order, 0), **change).draw("d", order)


def test_what_is_no_position_is_refused() -> None:
    good = Position("d", "uniform", 0, 0, 0).to_dict()
    for raw in ({}, {**good, "offset": "1"}, {**good, "epoch": True}, {**good, "more": 1}):
        with pytest.raises(ValueError, match="expected a position with"):
            Position.from_dict(raw)
