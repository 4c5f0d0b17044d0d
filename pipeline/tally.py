"""What all tasks of an ingest have done so far, for its progress display: a restart may lose counts, never work."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import ray


class Tally:
    """Counts what tasks have done so far."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, counts: dict[str, int]) -> None:
        """Adds a task's counts."""
        self.counts.update(counts)

    def read(self) -> Counter[str]:
        """All counts."""
        return self.counts


TallyActor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tally)


class TallyClient:
    """A task's end of the tally: sends at most one message a second and never waits for an answer."""

    def __init__(self, tally: Any) -> None:
        self._tally = tally
        self._unsent: Counter[str] = Counter()
        self._sent_at = time.monotonic()

    def __call__(self, **counts: int) -> None:
        self._unsent.update(counts)
        if time.monotonic() - self._sent_at >= 1.0:
            self.flush()

    def flush(self) -> None:
        """Sends what is left."""
        if self._unsent:
            self._tally.add.remote(dict(self._unsent))
            self._unsent = Counter()
        self._sent_at = time.monotonic()
