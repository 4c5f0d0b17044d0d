"""Orders: every epoch is a permutation, none depends on how it is asked for, and the balanced one keeps its promise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.order import (
    Order,
    balanced,
    make_order,
    members_by_class,
    neighbour_distances,
    permutation,
    sequential,
    splitmix64,
    uniform,
    windowed,
)

counts = st.integers(1, 60)
seeds = st.integers(-(2**70), 2**70)


def csr(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *map(len, lists)])
    return offsets, np.array([label for labels in lists for label in labels], np.int16)


def test_the_generator_is_the_published_one() -> None:
    # Reference values: Vigna's splitmix64.c from state 0, and the five of Rosetta Code from 1234567.
    assert splitmix64(0, 3).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567, 5).tolist() == expected


def test_a_permutation_is_that_of_python_integers() -> None:
    """Recomputed without numpy, so that a change of its arithmetic or sorting could not go unseen."""
    mask = 2**64 - 1

    def next_number(state: int) -> tuple[int, int]:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return state, z ^ (z >> 31)

    state = 0
    for word in (3, 7, -1):
        state = next_number(state ^ (word & mask))[1]
    ranks = []
    for _ in range(100):
        state, number = next_number(state)
        ranks.append(number)
    assert permutation(100, 3, 7, -1).tolist() == sorted(range(100), key=ranks.__getitem__)


@settings(max_examples=50, deadline=None)
@given(counts, seeds, st.integers(0, 5), st.integers(1, 4))
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int, window: int) -> None:
    for order in (sequential(count), uniform(count, seed), windowed(np.arange(count) // 5, seed, window)):
        drawn = order.indices(epoch * count, (epoch + 1) * count)
        assert sorted(drawn.tolist()) == list(range(count))
        assert order.epoch_size == count


def test_epochs_and_seeds_differ() -> None:
    shards = np.arange(200) // 10
    for make in (lambda seed: uniform(200, seed), lambda seed: windowed(shards, seed, 3)):
        epochs = [make(0).indices(200 * e, 200 * e + 200).tolist() for e in range(4)]
        assert len({tuple(epoch) for epoch in [*epochs, make(1).indices(0, 200).tolist()]}) == 5


lists_of_labels = st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(lists_of_labels, st.integers(0, 2**40), st.integers(0, 500), st.lists(st.integers(0, 40), max_size=5))
def test_a_range_is_the_same_however_it_is_cut(lists: list[list[int]], seed: int, start: int, cuts: list[int]) -> None:
    orders: list[Order] = [uniform(len(lists), seed), windowed(np.arange(len(lists)) // 4, seed, 2)]
    if any(lists):
        orders.append(balanced(*csr(lists), seed))
    places = start + np.cumsum([0, *cuts])
    for order in orders:
        whole = order.indices(places[0], places[-1])
        parts = [order.indices(a, b) for a, b in pairwise(places)]
        assert np.concatenate([np.empty(0, np.int64), *parts]).tolist() == whole.tolist()
        assert whole.dtype == np.int64


@settings(max_examples=50, deadline=None)
@given(lists_of_labels.filter(any), st.integers(0, 2**40))
def test_balanced_draws_hit_every_present_class_within_one_cycle(lists: list[list[int]], seed: int) -> None:
    present = sorted({label for labels in lists for label in labels})
    drawn = balanced(*csr(lists), seed).indices(0, 6 * len(present)).tolist()
    for at, sample in enumerate(drawn):
        assert present[at % len(present)] in lists[sample]


@settings(max_examples=50, deadline=None)
@given(lists_of_labels.filter(any), st.integers(0, 2**40))
def test_a_class_queue_gives_every_clip_once_before_any_twice(lists: list[list[int]], seed: int) -> None:
    present = sorted({label for labels in lists for label in labels})
    drawn = balanced(*csr(lists), seed).indices(0, 100 * len(present))
    for turn, label in enumerate(present):
        members = [sample for sample, labels in enumerate(lists) if label in labels]
        queue = drawn[turn :: len(present)].tolist()
        for lap in range(100 // len(members)):
            assert sorted(queue[lap * len(members) : (lap + 1) * len(members)]) == members


def test_the_queue_of_a_class_is_shuffled_anew() -> None:
    queue = balanced(*csr([[0]] * 50), 1).indices(0, 200).reshape(4, 50)
    assert len({tuple(lap) for lap in queue.tolist()}) == 4


def test_members_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 9, rng.integers(0, 5)).tolist() for _ in range(200)]
    expected = {label: [i for i, labels in enumerate(lists) if label in labels] for label in range(9)}
    found = members_by_class(*csr(lists))
    assert {label: members.tolist() for label, members in found.items()} == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 6))
def test_a_window_holds_so_many_shards_and_no_more(seed: int, window: int) -> None:
    shards = np.repeat(np.arange(11), 7)
    drawn = shards[windowed(shards, seed, window).indices(0, 77)]
    for start in range(0, 77, 7 * window):
        inside = drawn[start : start + 7 * window]
        assert len(set(inside.tolist())) == min(window, 11 - start // 7)
        assert len(inside) == 7 * len(set(inside.tolist()))


def test_shuffle_quality() -> None:
    """Neighbours in a shard: uniform puts them a third of the epoch apart, windowed a third of the window."""
    shards = np.arange(16_384) // 64
    apart = {}
    for order in (sequential(16_384), uniform(16_384, 0), windowed(shards, 0, 16)):
        apart[order.name] = neighbour_distances(order.indices(0, 16_384), shards)
    assert set(apart["sequential"].tolist()) == {1}
    assert len(apart["uniform"]) == 256 * 63
    assert apart["uniform"].mean() == pytest.approx(16_384 / 3, rel=0.03)
    assert apart["windowed-16"].mean() == pytest.approx(16 * 64 / 3, rel=0.03)
    assert apart["windowed-16"].max() < 16 * 64


def test_two_million_samples_take_well_under_a_second() -> None:
    import time

    order = uniform(2_000_000, 0)
    began = time.process_time()
    order.indices(0, 300)
    first = time.process_time() - began
    began = time.process_time()
    for batch in range(100):
        order.indices(batch * 300, batch * 300 + 300)
    assert first < 1.5  # measured 0.21 s; a slow machine must not fail
    assert time.process_time() - began < 0.1, "an epoch's permutation is remembered"


def test_what_cannot_be_ordered_is_refused() -> None:
    offsets, labels = csr([[], []])
    for text in ("random", "windowed-0", "windowed-x", "uniform-3", "windowed-1e3"):
        with pytest.raises(ValueError, match="expected an order of sequential, uniform"):
            make_order(text, 0, np.zeros(2), offsets, labels)
    with pytest.raises(ValueError, match="expected labelled samples"):
        make_order("balanced", 0, np.zeros(2), offsets, labels)
    with pytest.raises(ValueError, match="at least one sample"):
        make_order("uniform", 0, np.zeros(0), offsets, labels)
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        uniform(3, 0).indices(4, 3)


def test_names_say_all_that_decides_an_order() -> None:
    offsets, labels = csr([[1], [0]])
    names = ["sequential", "uniform", "windowed", "windowed-3", "balanced"]
    found = [make_order(name, 0, np.zeros(2), offsets, labels).name for name in names]
    assert found == ["sequential", "uniform", "windowed-16", "windowed-3", "balanced"]
