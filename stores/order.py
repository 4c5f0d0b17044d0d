"""Sample orders: endless sequences of sample numbers, each a pure function of (the samples, seed, epoch).

An order knows nothing of ranks, workers or batches: whoever reads takes a range of it. Nothing here keeps state; what
is remembered between calls is what has been computed already.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DEFAULT_WINDOW = 16  # shards; with two columns of 31 MB shards a window takes 1 GB of cache
DRAWS_AT_ONCE = 1 << 16  # of the balanced order
KINDS = ("sequential", "uniform", "windowed", "balanced")
_WORD = (1 << 64) - 1
# First word of each purpose's random stream, so that no two purposes see the same numbers.
_UNIFORM, _SHARDS, _WINDOWS, _CLASSES = range(4)


@dataclass(frozen=True)
class Order:
    """An endless sequence of sample numbers.

    Attributes:
        name: `sequential`, `uniform`, `windowed-16`, `balanced`.
        seed: any integer; of no effect on `sequential`.
        epoch_size: samples of an epoch: draw `k` belongs to epoch `k // epoch_size`.
    """

    name: str
    seed: int
    epoch_size: int
    _block_size: int
    _block: Callable[[int], np.ndarray]

    def indices(self, start: int, stop: int) -> np.ndarray:
        """Sample numbers of draws [start, stop), int64 [stop − start].

        Raises:
            ValueError: not 0 ≤ start ≤ stop.
        """
        if not 0 <= start <= stop:
            raise ValueError(f"expected draws 0 <= start <= stop, got {start} and {stop}")
        size = self._block_size
        pieces = [
            self._block(number)[max(start - number * size, 0) : stop - number * size]
            for number in range(start // size, -(-stop // size))
        ]
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)


def make_order(text: str, seed: int, shards: np.ndarray, label_offsets: np.ndarray, labels: np.ndarray) -> Order:
    """The order that a text names: `sequential`, `uniform`, `windowed`, `windowed-<shards>`, `balanced`.

    Args:
        shards: integers [N], the shard of each sample, equal ones side by side.
        label_offsets, labels: CSR: sample i has the classes `labels[label_offsets[i]:label_offsets[i + 1]]`.

    Raises:
        ValueError: no such order, no sample, or for `balanced` no label at all.
    """
    kind, _, window = text.partition("-")
    if kind not in KINDS or (window and not (kind == "windowed" and re.fullmatch("[1-9][0-9]{0,8}", window))):
        raise ValueError(f"expected an order of {', '.join(KINDS)} or windowed-<shards>, got {text!r}")
    if not len(shards):
        raise ValueError("expected at least one sample to order, got none: see what the snapshot left out, and why")
    if kind == "balanced":
        return balanced(label_offsets, labels, seed)
    if kind == "windowed":
        return windowed(shards, seed, int(window or DEFAULT_WINDOW))
    return uniform(len(shards), seed) if kind == "uniform" else sequential(len(shards), seed)


def sequential(count: int, seed: int = 0) -> Order:
    """0 … count − 1, again and again."""
    samples = np.arange(count)
    return Order("sequential", seed, count, count, lambda _: samples)


def uniform(count: int, seed: int) -> Order:
    """Every epoch another permutation of all samples."""
    return _of_epochs("uniform", seed, count, lambda epoch: permutation(count, _UNIFORM, seed, epoch))


def windowed(shards: np.ndarray, seed: int, window: int = DEFAULT_WINDOW) -> Order:
    """Every epoch the shards are shuffled, and then the samples within each window of so many shards.

    So that a reader needs only a window's shards at hand at any time.

    Args:
        shards: integers [N], the shard of each sample.
        window: in shards, at least 1.
    """
    _, shard_of = np.unique(shards, return_inverse=True)
    count, shard_count = len(shards), int(shard_of.max()) + 1

    def epoch_of(epoch: int) -> np.ndarray:
        place = np.empty(shard_count, np.uint16 if shard_count < 1 << 16 else np.int64)  # uint16 is sorted by radix
        place[permutation(shard_count, _SHARDS, seed, epoch)] = np.arange(shard_count)
        shuffled = permutation(count, _WINDOWS, seed, epoch)
        return shuffled[np.argsort((place // window)[shard_of[shuffled]], kind="stable")]

    return _of_epochs(f"windowed-{window}", seed, count, epoch_of)


def balanced(label_offsets: np.ndarray, labels: np.ndarray, seed: int) -> Order:
    """One shuffled queue per class, the classes drawn from in turn; a queue that ends is shuffled anew.

    In closed form: draw k is cycle k // C, the (k % C)-th of the C classes that any sample has; a class's j-th draw is
    the (j mod n)-th of its n samples in the permutation of its pass j // n. An epoch is as many draws as there are
    samples; the queues run on over its end. Source: TALNet (Wang, Li and Metze, ICASSP 2019); RECIPE.md 3.

    Args:
        label_offsets, labels: CSR, see `make_order`. A class listed twice for a sample counts once.

    Raises:
        ValueError: no sample has a label.
    """
    members = members_by_class(label_offsets, labels)
    if not members:
        raise ValueError("expected labelled samples for the balanced order, got none: use uniform")
    queues = [_Queue(queue, (seed, label)) for label, queue in members.items()]
    count, turns = len(label_offsets) - 1, len(queues)
    size = min(DRAWS_AT_ONCE, max(count, 8 * turns))

    @lru_cache(maxsize=2)
    def block(number: int) -> np.ndarray:
        start = number * size
        drawn = np.empty(size, np.int64)
        for turn, queue in enumerate(queues):
            at = (turn - start) % turns
            cycle = (start + at) // turns
            places = len(range(at, size, turns))
            drawn[at::turns] = queue.draws(cycle, cycle + places)
        return drawn

    return Order("balanced", seed, count, size, block)


def members_by_class(label_offsets: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    """The samples of each class that any sample has, in ascending order both; each sample once.

    Args:
        label_offsets, labels: CSR, see `make_order`.
    """
    # int16 is sorted by radix: 4 million labels in 0.1 s, which np.unique takes 20 s for.
    by_class = np.argsort(labels.astype(np.int16), kind="stable")
    samples = np.repeat(np.arange(len(label_offsets) - 1), np.diff(label_offsets))[by_class]
    classes = labels[by_class]
    once = np.ones(len(classes), bool)
    once[1:] = (np.diff(classes) != 0) | (np.diff(samples) != 0)
    classes, samples = classes[once], samples[once]
    first = np.flatnonzero(np.r_[True, np.diff(classes) != 0]) if len(classes) else np.empty(0, np.int64)
    return dict(zip(classes[first].tolist(), np.split(samples, first[1:]), strict=False))


def neighbour_distances(sequence: np.ndarray, shards: np.ndarray) -> np.ndarray:
    """How far apart an epoch puts samples that lie side by side in one shard, in samples.

    That is the quality of a shuffle: neighbours of a shard that meet in a batch make it less random.

    Args:
        sequence: int [N], a permutation of the samples 0 … N − 1.
        shards: integers [N], the shard of each sample.

    Returns:
        int64, one distance for each pair of neighbours: 1 everywhere for `sequential`, (N + 1)/3 on average for a
        perfect shuffle.
    """
    place = np.empty(len(sequence), np.int64)
    place[sequence] = np.arange(len(sequence))
    return np.abs(np.diff(place))[shards[1:] == shards[:-1]]


def permutation(count: int, *words: int) -> np.ndarray:
    """A permutation of 0 … count − 1 that follows from the words, int64 [count].

    Samples are ranked by the numbers of a SplitMix64 generator, which are distinct, so that there are no ties.
    numpy's own permutations are not promised to be the same in its next version.
    """
    state = 0
    for word in words:
        state = int(splitmix64(state ^ (word & _WORD), 1)[0])
    return np.argsort(splitmix64(state, count))


def splitmix64(state: int, count: int) -> np.ndarray:
    """The first numbers of the generator SplitMix64 from a state, uint64 [count].

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, section 5.
    """
    numbers = np.arange(1, count + 1, dtype=np.uint64)
    numbers *= np.uint64(0x9E3779B97F4A7C15)
    numbers += np.uint64(state)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers ^= numbers >> np.uint64(shift)
        numbers *= np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


class _Queue:
    """A class's samples, in a new order at each pass."""

    def __init__(self, members: np.ndarray, words: tuple[int, int]) -> None:
        self._members = members
        self._words = words
        # The largest classes take a second of sorting for a pass that lasts for thousands of blocks.
        self._last: tuple[int, np.ndarray] = (-1, members)

    def draws(self, start: int, stop: int) -> np.ndarray:
        """The class's draws [start, stop), sample numbers."""
        size = len(self._members)
        return np.concatenate(
            [
                self._pass(number)[max(start - number * size, 0) : stop - number * size]
                for number in range(start // size, -(-stop // size))
            ]
        )

    def _pass(self, number: int) -> np.ndarray:
        known, shuffled = self._last
        if known != number:
            shuffled = self._members[permutation(len(self._members), _CLASSES, *self._words, number)]
            self._last = (number, shuffled)
        return shuffled


def _of_epochs(name: str, seed: int, count: int, epoch_of: Callable[[int], np.ndarray]) -> Order:
    # Two: a batch may lie across the end of an epoch.
    return Order(name, seed, count, count, lru_cache(maxsize=2)(epoch_of))
