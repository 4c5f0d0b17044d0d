"""Lending of objects that only one thread may use at a time."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from pipeline.pool import Pool


def test_an_idle_object_is_lent_again_and_no_more_are_made_than_needed_at_once() -> None:
    numbers = count()
    pool: Pool[int] = Pool(lambda: next(numbers), lambda number: None)
    with pool.borrow() as first, pool.borrow() as second:
        assert {first, second} == {0, 1}
    with pool.borrow() as again:
        assert again in (0, 1)
    assert next(numbers) == 2


def test_nobody_shares_an_object() -> None:
    in_use: set[int] = set()
    clashes = []
    numbers = count()
    pool: Pool[int] = Pool(lambda: next(numbers), lambda number: None)

    def work() -> None:
        for _ in range(200):
            with pool.borrow() as number:
                if number in in_use:
                    clashes.append(number)
                in_use.add(number)
                in_use.discard(number)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []
    assert next(numbers) <= 6


def test_an_object_comes_back_from_a_failed_block_and_is_closed_in_the_end() -> None:
    closed: list[str] = []
    pool: Pool[str] = Pool(lambda: "object", closed.append)
    with pytest.raises(KeyError), pool.borrow():
        raise KeyError
    pool.close()
    assert closed == ["object"]
