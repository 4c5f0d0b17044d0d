"""Buffers are filled again only when nobody can see them."""

from __future__ import annotations

import numpy as np
import torch

from stores.buffers import BufferPool


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_a_buffer_that_was_dropped_is_lent_again() -> None:
    pool = BufferPool((4, 3), "float16", 2)
    first = pool.take(4)
    assert (first.shape, first.dtype) == ((4, 3), np.float16)
    where = address(first)
    del first
    assert address(pool.take(2)) == where


def test_a_buffer_in_use_is_not_lent_again_whatever_holds_it() -> None:
    holders = {
        "itself": lambda array: array,
        "a slice of a slice": lambda array: array[1:][:2],
        "a reshaped view": lambda array: array.reshape(-1),
        "a view of another type": lambda array: array.view(np.int16),
        "a memoryview": lambda array: memoryview(array),
        "a tensor": lambda array: torch.from_numpy(array),
        "a slice of a tensor": lambda array: torch.from_numpy(array)[1:],
    }
    for name, hold in holders.items():
        pool = BufferPool((4, 3), "float16", 1)
        array = pool.take(4)
        array[:] = 7
        held = hold(array)
        del array
        other = pool.take(4)
        other[:] = 9
        values = held.numpy() if isinstance(held, torch.Tensor) else np.asarray(held)
        assert 9 not in values.view(np.float16), name


def test_more_than_it_keeps_can_be_in_use() -> None:
    pool = BufferPool((2,), "int64", 1)
    taken = [pool.take(2) for _ in range(5)]
    assert len({address(array) for array in taken}) == 5
    assert len(pool._buffers) == 1
