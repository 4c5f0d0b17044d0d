"""A seekable binary file out of two answers: the bytes at a place, and where the end is."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import Any


class SeekableReader(io.RawIOBase):
    """Keeps the position; subclasses give `read_at` and `end`. Not thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0

    @abstractmethod
    def read_at(self, position: int, length: int) -> bytes:
        """At most `length` bytes from a position on, which may be fewer; none at the end and beyond it only."""

    @abstractmethod
    def end(self) -> int:
        """The size of the file in bytes."""

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position; nothing is read, but to find the end where it is asked for."""
        base = 0
        if whence == io.SEEK_CUR:
            base = self._position
        elif whence == io.SEEK_END:
            base = self.end()
        if base + offset < 0:
            raise ValueError(f"expected a position inside the file, got {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Reads what `read_at` gives; 0 at the end only."""
        view = memoryview(buffer).cast("B")
        data = self.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
