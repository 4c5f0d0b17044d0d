"""How fast a source is asked: a steady pace, and a pause for everybody once it says that it is too much."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable


class Pacer:
    """Spreads fetches of one process evenly over time.

    The budget starts empty: a restart gains nothing, it waits for its first turn like any other. Thread-safe.

    Args:
        per_hour: fetches an hour; None for no limit.
        jitter: each gap is stretched or shrunk by up to this share, so that the pace is no metronome.
    """

    def __init__(
        self,
        per_hour: float | None,
        jitter: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
    ) -> None:
        if per_hour is not None and per_hour <= 0:
            raise ValueError(f"expected a budget above 0 fetches an hour, got {per_hour}")
        self._gap_s = 0.0 if per_hour is None else 3600.0 / per_hour
        self._jitter = jitter
        self._clock = clock
        self._sleep = sleep
        self._random = rng or random.Random()
        self._lock = threading.Lock()
        self._next = clock() + self._gap()

    def wait(self) -> None:
        """Blocks until this caller's turn."""
        if self._gap_s == 0.0:
            return
        with self._lock:
            turn = max(self._next, self._clock())
            self._next = turn + self._gap()
        self._sleep(max(0.0, turn - self._clock()))

    def _gap(self) -> float:
        return self._gap_s * (1 + self._jitter * (2 * self._random.random() - 1))


class Brake:
    """Stops all fetches of one shard from the moment that its source throttles. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: float | None = None

    def pull(self, seconds: float) -> None:
        """The source asks for a pause of so many seconds; the longest one asked for counts."""
        with self._lock:
            self._seconds = max(seconds, self._seconds or 0.0)

    @property
    def pulled(self) -> bool:
        """Whether nothing more may be asked for now."""
        return self._seconds is not None

    @property
    def seconds(self) -> float:
        """The pause asked for; 0 where none was."""
        return self._seconds or 0.0
