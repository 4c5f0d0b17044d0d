"""Fetches the tars that a reader will need next, in the order it will need them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from stores.shard_index import ShardTar
from stores.storage import StorageError

logger = logging.getLogger(__name__)

FETCHES_AT_ONCE = 4


class Prefetcher:
    """Runs ahead of a reader, as far as the tars of the batches between them fit into a budget.

    Args:
        fetch: brings a tar into the cache.
        needs: the tars of each batch, batch after batch.
        budget_bytes: of tars needed by the reader's batch and those ahead of it. A batch that exceeds it alone is left
            to the reader.
    """

    def __init__(
        self, fetch: Callable[[ShardTar], None], needs: Iterable[Sequence[ShardTar]], budget_bytes: int
    ) -> None:
        self._fetch, self._needs, self._budget = fetch, needs, budget_bytes
        self._ahead: dict[str, tuple[int, ShardTar]] = {}  # by name: the last batch that needs it
        self._taken = 0  # batches that the reader has begun
        self._stopped = False
        self._changed = threading.Condition()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Prefetches inside; downloads under way at the end are waited for."""
        thread = threading.Thread(target=self._run, name="avlens-prefetch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._stopped = True
                self._changed.notify()
            thread.join()

    def advance(self) -> None:
        """The reader begins its next batch."""
        with self._changed:
            self._taken += 1
            self._ahead = {name: held for name, held in self._ahead.items() if held[0] >= self._taken - 1}
            self._changed.notify()

    def _run(self) -> None:
        with ThreadPoolExecutor(FETCHES_AT_ONCE, "avlens-fetch") as pool:
            for number, tars in enumerate(self._needs):
                new = self._admit(number, tars)
                if new is None:
                    pool.shutdown(cancel_futures=True)
                    return
                for tar in new:
                    pool.submit(self._fetch_quietly, tar)

    def _admit(self, number: int, tars: Sequence[ShardTar]) -> list[ShardTar] | None:
        """Waits until a batch's tars fit in. Returns those to fetch: none when the reader is there already, None at the
        end."""
        with self._changed:
            while not self._stopped and number >= self._taken:
                new = [tar for tar in tars if tar.name not in self._ahead]
                held = sum(tar.size for _, tar in self._ahead.values())
                if held + sum(tar.size for tar in new) <= self._budget:
                    self._ahead.update({tar.name: (number, tar) for tar in tars})
                    return new
                self._changed.wait()
            return None if self._stopped else []

    def _fetch_quietly(self, tar: ShardTar) -> None:
        with self._changed:
            late = self._stopped or tar.name not in self._ahead
        if late:  # a busy machine: the reader fetched it itself, is past it, and it may have made room already
            return
        try:
            self._fetch(tar)
        except (StorageError, ValueError, FileNotFoundError) as error:
            # Not lost: the reader meets it itself, and knows what to do about it.
            logger.debug("prefetching %s: %s", tar.name, error)
