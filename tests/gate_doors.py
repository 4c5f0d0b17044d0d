"""A way to a gatekeeper of this process, on a clock that tests move: what Ray's actor is otherwise."""

from __future__ import annotations

import threading
from pathlib import Path

from pipeline.clip import Fetcher
from pipeline.failures import Cause
from pipeline.gatekeeper import Answer
from pipeline.gatekeeper_actor import Entry, GatekeeperServer
from pipeline.permits import Paced
from pipeline.politeness import Limits


class Clock:
    """Unix time that only moves when somebody waits, or is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Sleeps; whether it was stopped."""
        with self._lock:
            self.now += seconds
        return stop.is_set()


class LocalDoor:
    """Calls the gatekeeper as the actor would be called, one call at a time."""

    def __init__(self, store: Path, limits: dict[str, Limits], clock: Clock) -> None:
        self.server, self.entry = GatekeeperServer(clock), Entry(str(store), limits)
        self._lock = threading.Lock()

    def take(self) -> Answer:
        with self._lock:
            return self.server.take(self.entry)

    def holds(self, egress: str, era: int) -> bool:
        with self._lock:
            return self.server.holds(self.entry, egress, era)

    def request(self, egress: str) -> float:
        with self._lock:
            return self.server.request(self.entry, egress)

    def tell(
        self, egress: str, cause: Cause | None, retry_after_s: float | None = None, era: int | None = None
    ) -> float:
        with self._lock:
            return self.server.tell(self.entry, egress, cause, retry_after_s, era)

    def down(self, egress: str, era: int) -> None:
        with self._lock:
            self.server.down(self.entry, egress, era)


def paced(store: Path, clock: Clock, fetchers: dict[str, Fetcher], **limits: float) -> Paced:
    """A source behind a door of its own, with a fetcher for each egress."""
    each = Limits(jitter=0.0, **limits)
    door = LocalDoor(store, dict.fromkeys(fetchers, each), clock)
    limited = frozenset(fetchers) if each.requests_per_second else frozenset()
    return Paced(door, {name: lambda _, one=one: one for name, one in fetchers.items()}, limited, clock.wait)
