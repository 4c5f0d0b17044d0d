"""Pacing: the budget starts empty, holds over any hour, and is shared by threads."""

from __future__ import annotations

import random
import threading
from itertools import pairwise

import pytest

from pipeline.pacing import Brake, Pacer


class Time:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_turns_are_spread_and_none_comes_at_once() -> None:
    time = Time()
    pacer = Pacer(300, clock=time.clock, sleep=time.sleep, rng=random.Random(0))
    turns = []
    for _ in range(600):
        pacer.wait()
        turns.append(time.now - 100.0)
    assert turns[0] >= 12 * 0.7
    gaps = [b - a for a, b in pairwise(turns)]
    assert min(gaps) >= 12 * 0.7 - 1e-6
    assert max(gaps) <= 12 * 1.3 + 1e-6
    assert len({round(gap, 3) for gap in gaps}) > 100  # jitter: no metronome
    assert max(sum(start <= turn < start + 3600 for turn in turns) for start in turns) <= 300 * 1.05


def test_idle_time_is_not_saved_up() -> None:
    time = Time()
    pacer = Pacer(3600, jitter=0, clock=time.clock, sleep=time.sleep)
    time.now += 50
    before = time.now
    for _ in range(5):
        pacer.wait()
    assert time.now - before == pytest.approx(4)


def test_threads_share_it() -> None:
    turns: list[float] = []
    pacer = Pacer(3600 * 100, jitter=0, clock=lambda: 7.0, sleep=lambda seconds: turns.append(seconds))
    threads = [threading.Thread(target=pacer.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turns) == pytest.approx([0.01 * k for k in range(1, 9)])  # a gap of 10 ms for each


def test_no_budget_means_no_wait_and_nonsense_is_refused() -> None:
    Pacer(None, sleep=lambda seconds: pytest.fail("slept")).wait()
    with pytest.raises(ValueError, match="above 0"):
        Pacer(0)


def test_the_longest_pause_asked_for_counts() -> None:
    brake = Brake()
    assert not brake.pulled
    brake.pull(3)
    brake.pull(1)
    assert brake.pulled
    assert brake.seconds == 3
