"""Objects that several threads share but only one may use at a time: HTTP sessions, yt-dlp's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends an idle object, or makes one; there are never more than were in use at once.

    Not thread-locals: threads come and go with every shard; what an object holds (connections, cookies) should stay.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], None]) -> None:
        self._make = make
        self._close = close
        self._lock = threading.Lock()
        self._idle: list[T] = []

    @contextmanager
    def borrow(self) -> Iterator[T]:
        """An object that nobody else has until the block ends."""
        with self._lock:
            held = self._idle.pop() if self._idle else None
        if held is None:
            held = self._make()
        try:
            yield held
        finally:
            with self._lock:
                self._idle.append(held)

    def close(self) -> None:
        """Closes the idle objects."""
        with self._lock:
            idle, self._idle = self._idle, []
        for held in idle:
            self._close(held)
