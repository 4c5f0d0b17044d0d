"""Arrays that are filled again once nobody looks at them any more.

A fresh array of a batch costs a page fault every 4 kB, which takes longer than copying the samples into it.
"""

from __future__ import annotations

import sys
import threading

import numpy as np


class BufferPool:
    """Lends arrays of one shape and type. Safe to use from several threads.

    Args:
        shape: of a full buffer.
        dtype: of its values.
        most: buffers to keep; when all are in use, a further one is made and not kept.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str, most: int) -> None:
        self._shape, self._dtype, self._most = shape, dtype, most
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, rows: int) -> np.ndarray:
        """An array [rows, …] of undefined content. It belongs to the caller for as long as any reference to it, or to a
        view of it (a tensor made from it included), exists."""
        with self._lock:
            for place in range(len(self._buffers)):
                if _references(self._buffers, place) == _NO_OTHERS:
                    return self._buffers[place][:rows]
            buffer = np.empty(self._shape, self._dtype)
            if len(self._buffers) < self._most:
                self._buffers.append(buffer)
            return buffer[:rows]


def _references(buffers: list[np.ndarray], place: int) -> int:
    # A view of an array refers to the array that owns the memory, never to a view between them: counting is enough.
    return sys.getrefcount(buffers[place])


_NO_OTHERS = _references([np.empty(1)], 0)
