"""The prefetcher: in the order of need, within its budget, gone when told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from store_factory import SMALL_LOGMEL

from stores.prefetch import FETCHES_AT_ONCE, Prefetcher
from stores.shard_index import ShardTar
from stores.storage import StorageError


def tar(number: int, size: int = 10) -> ShardTar:
    return ShardTar(f"{number}", size, "", SMALL_LOGMEL, 1, np.zeros((1, 4), np.int64), np.zeros(1, np.uint64))


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_it_fetches_each_tar_once_as_far_as_the_budget_goes() -> None:
    fetched: list[str] = []
    needs = [[tar(0), tar(1)], [tar(1), tar(2)], [tar(2), tar(3)], [tar(4)], [tar(5)]]
    prefetcher = Prefetcher(lambda found: fetched.append(found.name), needs, 40)
    with prefetcher.running():
        assert until(lambda: sorted(fetched) == ["0", "1", "2", "3"])
        time.sleep(0.05)
        assert len(fetched) == 4, "the fifth would exceed the budget"
        prefetcher.advance()
        time.sleep(0.05)
        assert len(fetched) == 4, "batch 0 is being read: its tars are still needed"
        prefetcher.advance()
        assert until(lambda: len(fetched) == 5), "tar 0 is not needed any more"
        time.sleep(0.05)
        assert len(fetched) == 5, "tar 1 is"
        prefetcher.advance()
        assert until(lambda: sorted(fetched) == ["0", "1", "2", "3", "4", "5"])


def test_a_batch_beyond_the_budget_is_left_to_the_reader() -> None:
    fetched: list[str] = []
    prefetcher = Prefetcher(lambda found: fetched.append(found.name), [[tar(0, 100)], [tar(1)], [tar(2)]], 40)
    with prefetcher.running():
        time.sleep(0.05)
        assert fetched == []
        prefetcher.advance()
        assert until(lambda: sorted(fetched) == ["1", "2"])


def test_errors_are_left_to_the_reader_and_do_not_stop_it() -> None:
    tried: list[str] = []

    def fetch(found: ShardTar) -> None:
        tried.append(found.name)
        raise {"0": StorageError("down"), "1": FileNotFoundError(), "2": ValueError("damaged")}[found.name]

    with Prefetcher(fetch, [[tar(0)], [tar(1)], [tar(2)]], 1000).running():
        assert until(lambda: sorted(tried) == ["0", "1", "2"])


def test_it_stops_at_once_also_when_the_needs_never_end() -> None:
    before = threading.active_count()
    with Prefetcher(lambda found: None, ([tar(number)] for number in iter(int, 1)), 40).running():
        assert threading.active_count() > before
    assert until(lambda: threading.active_count() == before)


def test_what_is_still_queued_at_the_end_is_not_fetched() -> None:
    fetched: list[str] = []
    going, begun = threading.Event(), threading.Semaphore(0)

    def fetch(found: ShardTar) -> None:
        fetched.append(found.name)
        begun.release()
        going.wait(10)

    needs = [[tar(number)] for number in range(100)]
    with Prefetcher(fetch, needs, 10**6).running():
        for _ in range(FETCHES_AT_ONCE):
            assert begun.acquire(timeout=10)
        threading.Timer(0.1, going.set).start()
    assert len(fetched) == FETCHES_AT_ONCE


def test_what_the_reader_is_past_is_not_fetched_late() -> None:
    fetched: list[str] = []
    going = threading.Event()

    def fetch(found: ShardTar) -> None:
        fetched.append(found.name)
        going.wait(10)

    needs = [[tar(number)] for number in range(3 * FETCHES_AT_ONCE)]
    prefetcher = Prefetcher(fetch, needs, 10_000)
    with prefetcher.running():
        assert until(lambda: len(fetched) == FETCHES_AT_ONCE)  # the others wait for a thread
        for _ in range(2 * FETCHES_AT_ONCE + 1):
            prefetcher.advance()
        going.set()
        assert until(lambda: len(fetched) == 2 * FETCHES_AT_ONCE)
    assert set(fetched) == {str(n) for n in (*range(FETCHES_AT_ONCE), *range(2 * FETCHES_AT_ONCE, 3 * FETCHES_AT_ONCE))}
