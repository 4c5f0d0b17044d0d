"""Reads a snapshot's samples in a given order as collated batches, on any number of ranks, threads and restarts.

The order is one global sequence. It is cut into batches side by side, and batch b belongs to rank b mod world size. So
what is read does not depend on how many read it, and a position in the sequence is all that a resume needs.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import groupby
from operator import itemgetter

import numpy as np

from stores.batch import Batch, select_labels
from stores.buffers import BufferPool
from stores.cache import TarCache
from stores.order import make_order
from stores.position import Position
from stores.prefetch import Prefetcher
from stores.shard_index import ShardError, ShardTar
from stores.shard_tars import TarFiles
from stores.snapshot import Snapshot, SnapshotColumn
from stores.text import size_text

logger = logging.getLogger(__name__)

KEPT_BUFFERS = 4  # beside those of the threads: what a training loop holds at once


class Reader:
    """An iterable of `Batch`; each iteration begins at the start position anew.

    Args:
        snapshot: what to read.
        order: `sequential`, `uniform`, `windowed`, `windowed-<shards>` or `balanced`; see `stores.order`.
        batch_size: samples of a batch.
        seed: of the order.
        rank, world_size: which reader of how many this is. All must be given the same everything else.
        start: go on from here; None begins at epoch 0.
        epochs: None never ends, and batches run over the ends of epochs. A number ends the sequence after that many
            epochs from epoch 0 on; its last batch is then `short`, and every rank gets equally many batches, the last
            of some `padding` without a sample.
        drop_last: leave out a last batch that is short.
        workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
        verify: compare each shard with its checksums before anything of it is given out, once per process.
        strict: a damaged shard is an error; else its samples are left out from the beginning, and it is named in one
            warning, in `quarantined`, and counted in each batch's `missing`.
        cache: for stores that are not on disk; None takes `TarCache.default()`.

    Attributes:
        order: the `Order`.
        quarantined: file → what is wrong with it, of those that this reader has come across.

    Raises:
        ValueError: an argument is out of range, no sample, `start` belongs to another snapshot, order or seed, or the
            cache is smaller than a shard.
        ShardError: the snapshot left out a damaged manifest, with `strict`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        order: str = "uniform",
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: Position | None = None,
        epochs: int | None = None,
        drop_last: bool = False,
        workers: int = 0,
        verify: bool = True,
        strict: bool = False,
        cache: TarCache | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0 or (epochs is not None and epochs < 0):
            raise ValueError(f"expected batch_size >= 1, workers and epochs >= 0: {batch_size}, {workers}, {epochs}")
        if not 0 <= rank < world_size:
            raise ValueError(f"expected 0 <= rank < world_size, got {rank} and {world_size}")
        self.snapshot, self.batch_size, self.rank, self.world_size = snapshot, batch_size, rank, world_size
        self.order = make_order(order, seed, snapshot.shards, snapshot.label_offsets, snapshot.labels)
        self.quarantined: dict[str, str] = dict(snapshot.faults)
        for file, reason in snapshot.faults.items() if strict else ():
            raise ShardError(file, reason, snapshot.storage.uri)
        self._first = 0 if start is None else start.draw(snapshot.digest, self.order)
        self._end = None if epochs is None else max(epochs * self.order.epoch_size, self._first)
        self._drop_last, self._workers, self._strict = drop_last, workers, strict
        self._cache = self._usable_cache(cache)
        self._files = TarFiles(snapshot.storage, self._cache, verify)
        self._damaged_tars = [np.zeros(len(column.tars), bool) for column in snapshot.columns]
        self._damaged = False
        self._lock = threading.Lock()
        self._buffers = [
            BufferPool((batch_size, *column.spec.shape), column.spec.dtype, KEPT_BUFFERS + 2 * workers)
            for column in snapshot.columns
        ]

    # ---------------------------------------------------------------- the sequence

    @property
    def first_number(self) -> int:
        """The number of the first batch, of whichever rank."""
        return self._first // self.batch_size

    @property
    def rounds(self) -> int | None:
        """How many batches every rank gets, None for endlessly many."""
        total = self._total()
        return None if total is None else -(-total // self.world_size)

    def position(self, number: int) -> Position:
        """The position of the first sample of a batch by its number: where to go on after batches below it.

        Raises:
            ValueError: a number before the first.
        """
        if number < self.first_number:
            raise ValueError(f"expected a batch number from {self.first_number} on, got {number}")
        return Position.at(self.snapshot.digest, self.order, self._span(number)[0])

    def __iter__(self) -> Iterator[Batch]:
        if self._cache is None:
            yield from self._batches(None)
            return
        needs = (self._needs(number) for number in self._numbers())
        # Half: then what has been read, at least the other half, is always older than what was fetched ahead, and a
        # cache that removes the longest unused never removes what is still to come.
        prefetcher = Prefetcher(self._fetch, needs, self._cache.limit_bytes // 2)
        with prefetcher.running():
            yield from self._batches(prefetcher)

    def _total(self) -> int | None:
        """Batches of all ranks together, None for endlessly many."""
        if self._end is None:
            return None
        count = self._end - self._first
        return count // self.batch_size if self._drop_last else -(-count // self.batch_size)

    def _numbers(self) -> Iterator[int]:
        """The numbers of this rank's batches: one of each round of as many batches as there are ranks."""
        number = self.first_number + (self.rank - self.first_number) % self.world_size
        done, rounds = 0, self.rounds
        while rounds is None or done < rounds:
            yield number
            number, done = number + self.world_size, done + 1

    def _span(self, number: int) -> tuple[int, int]:
        """Draws [start, stop) of a batch; both the sequence's end for one after it."""
        start = self._first + (number - self.first_number) * self.batch_size
        if self._end is None:
            return start, start + self.batch_size
        total = self._total()
        assert total is not None
        end = min(self._end, self._first + total * self.batch_size)
        return min(start, end), min(start + self.batch_size, end)

    # ---------------------------------------------------------------- batches

    def _batches(self, prefetcher: Prefetcher | None) -> Iterator[Batch]:
        """This rank's batches in order; with threads, some are under way ahead of the caller."""
        begin = prefetcher.advance if prefetcher else lambda: None
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self._workers, "avlens-read") if self._workers else nullcontext() as pool:
            try:
                for number in self._numbers():
                    begin()
                    if pool is None:
                        yield self._batch(number)
                        continue
                    waiting.append(pool.submit(self._batch, number))
                    if len(waiting) > self._workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _batch(self, number: int) -> Batch:
        start, stop = self._span(number)
        drawn = self.order.indices(start, stop)
        index, arrays = self._gather(drawn)
        snapshot = self.snapshot
        offsets, labels = select_labels(snapshot.label_offsets, snapshot.labels, index)
        return Batch(
            keys=[key.decode() for key in snapshot.keys[index].tolist()],
            index=index,
            arrays=arrays,
            label_offsets=offsets,
            labels=labels,
            flags={name: values[index] for name, values in snapshot.flags.items()},
            number=number,
            position=Position.at(snapshot.digest, self.order, start),
            after=Position.at(snapshot.digest, self.order, stop),
            missing=len(drawn) - len(index),
            short=0 < stop - start < self.batch_size,
            padding=start == stop,
        )

    def _gather(self, drawn: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The numbers and arrays of those of the drawn samples whose shards are sound."""
        while True:
            index = self._sound(drawn)
            arrays: dict[str, np.ndarray] = {}
            for number, column in enumerate(self.snapshot.columns):
                arrays[column.name] = self._buffers[number].take(len(index))
                if not self._copy(number, column, index, arrays[column.name]):
                    break  # a shard has just turned out to be damaged, and none of its samples may be given out
            else:
                return index, arrays

    def _sound(self, drawn: np.ndarray) -> np.ndarray:
        if not self._damaged:
            return drawn
        columns = zip(self._damaged_tars, self.snapshot.columns, strict=True)
        return drawn[~np.logical_or.reduce([damaged[column.tar[drawn]] for damaged, column in columns])]

    def _copy(self, number: int, column: SnapshotColumn, index: np.ndarray, out: np.ndarray) -> bool:
        """Fills `out` with the samples; False when that met a damaged shard, which is quarantined then."""
        for tar, runs in groupby(self._runs(column.tar[index], column.row[index]), key=itemgetter(0)):
            try:
                arrays = self._files.acquire(column.tars[tar])
            except ShardError as error:
                self._quarantine(number, tar, error)
                return False
            try:
                for _, row, start, stop in runs:
                    arrays.copy(row, out[start:stop])
            finally:
                self._files.release(arrays)
        return True

    def _runs(self, tar: np.ndarray, row: np.ndarray) -> list[tuple[int, int, int, int]]:
        """(tar, first row, start and stop in the batch) of stretches that lie side by side in one tar too."""
        if not len(tar):
            return []
        starts = [0, *(np.flatnonzero((tar[1:] != tar[:-1]) | (row[1:] != row[:-1] + 1)) + 1).tolist()]
        runs = list(zip(tar[starts].tolist(), row[starts].tolist(), starts, [*starts[1:], len(tar)], strict=True))
        return sorted(runs) if self._cache else runs  # a cached tar is opened each time: once a batch is enough

    def _quarantine(self, number: int, tar: int, error: ShardError) -> None:
        if self._strict:
            raise error
        file, reason, _ = error.args
        with self._lock:
            if not self._damaged_tars[number][tar]:
                left_out = int((self.snapshot.columns[number].tar == tar).sum())
                logger.warning("%s: the %d samples of this shard are left out", error, left_out)
                self.quarantined[file] = reason
            self._damaged_tars[number][tar] = True
            self._damaged = True

    # ---------------------------------------------------------------- remote stores

    def _usable_cache(self, cache: TarCache | None) -> TarCache | None:
        """The cache that a remote store is read through; None for one on disk."""
        if self.snapshot.storage.is_local:
            return None
        cache = cache or TarCache.default()
        tars = [tar for column in self.snapshot.columns for tar in column.tars]
        cache.require_room(tars)
        total = sum(tar.size for tar in tars)
        if total > cache.limit_bytes and self.order.name in ("uniform", "balanced"):
            logger.warning(
                "the %s order jumps all over %s of remote shards, and the cache holds %s: shards will be fetched over "
                "and over. The windowed order is meant for this; or give the cache room for all of them",
                *(self.order.name, size_text(total), size_text(cache.limit_bytes)),
            )
        return cache

    def _needs(self, number: int) -> list[ShardTar]:
        """The tars of a batch."""
        index = self.order.indices(*self._span(number))
        return [column.tars[tar] for column in self.snapshot.columns for tar in np.unique(column.tar[index]).tolist()]

    def _fetch(self, tar: ShardTar) -> None:
        assert self._cache is not None
        self._cache.lease(self.snapshot.storage, tar).close()
