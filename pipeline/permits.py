"""Leave to ask a source for a clip: waits for the turn, fetches by the egress whose turn it is, and says how it went.

Knows no Ray: a `Door` leads to the cluster's gatekeeper (`pipeline.gatekeeper_actor`), or to one of this process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.clip import FetchedClip, Fetcher
from pipeline.failures import Cause, FetchFailure, ProxyDown
from pipeline.gatekeeper import Answer
from pipeline.segments import Segment

PATIENCE_S = 15.0  # shut for longer than this: the shard goes back, rather than hold threads that wait
TOLD_LATE_S = 1.0  # a turn that was waited for longer is asked about again: the breaker may have opened meanwhile
# Answers: the source did not mind being asked.
TELLING = frozenset({Cause.GONE, Cause.GONE_HERE, Cause.UNDECODABLE, Cause.CRASHED})


class Shut(Exception):  # noqa: N818 - a fact, not an error
    """No egress may be used for now.

    Attributes:
        wait_s: seconds until it is worth asking again.
    """

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Stopped(Exception):  # noqa: N818
    """Who asked has been told to stop meanwhile."""


class Source(Protocol):
    """What a shard fetches from."""

    def fetch(self, segment: Segment, stop: threading.Event) -> FetchedClip:
        """The segment's media, when it may be asked for.

        Raises:
            FetchFailure: with the cause; one that was throttled says after how long it is worth trying again.
            Shut: nothing was asked for.
            Stopped: nothing was asked for, because `stop` was set.
        """
        ...


class Unpaced:
    """A source that nobody need be polite to: a folder."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def fetch(self, segment: Segment, stop: threading.Event) -> FetchedClip:
        """See `Source`."""
        if stop.is_set():
            raise Stopped
        return self._fetcher.fetch(segment)


class Door(Protocol):
    """The way to a gatekeeper, for a job with its egresses. Seconds are from now."""

    def take(self) -> Answer:
        """A turn, or how long all are shut."""
        ...

    def holds(self, egress: str, era: int) -> bool:
        """Whether a turn is still good."""
        ...

    def request(self, egress: str) -> float:
        """Seconds until the next plain request may go out."""
        ...

    def tell(
        self, egress: str, cause: Cause | None, retry_after_s: float | None = None, era: int | None = None
    ) -> float:
        """Says how a turn of that era went; None for well. Gives the seconds until any egress is worth trying."""
        ...

    def down(self, egress: str, era: int) -> None:
        """Says that nothing got out by a turn of that era: whoever has the next one asks by another egress."""
        ...


class Paced:
    """A source asked at the pace of its egresses.

    Args:
        open_by: opens the source as one egress, with what is to be called before each plain HTTP request, if anything.
        limited: egresses with a limit of requests.
        wait: sleeps for so many seconds, or until the event is set; then it is true.
    """

    def __init__(
        self,
        door: Door,
        open_by: Mapping[str, Callable[[Callable[[], None] | None], Fetcher]],
        limited: frozenset[str] = frozenset(),
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._door, self._open_by, self._limited, self._wait = door, open_by, limited, wait
        self._lock = threading.Lock()
        self._fetchers: dict[str, Fetcher] = {}

    def fetch(self, segment: Segment, stop: threading.Event) -> FetchedClip:
        """See `Source`."""
        while True:
            egress, era = self._turn(stop)
            try:
                return self._fetch_by(egress, era, segment)
            except ProxyDown:
                self._door.down(egress, era)

    def _fetch_by(self, egress: str, era: int, segment: Segment) -> FetchedClip:
        try:
            clip = self._fetcher(egress).fetch(segment)
        except ProxyDown:
            raise
        except FetchFailure as failure:
            wait_s = self._door.tell(egress, failure.cause, failure.retry_after_s, era)
            if failure.cause == Cause.THROTTLED:
                throttled = FetchFailure(failure.cause, failure.words, wait_s)
                throttled.traffic, throttled.requests = failure.traffic, failure.requests
                raise throttled from failure
            raise
        except BaseException:
            self._door.tell(egress, Cause.INTERNAL, None, era)
            raise
        self._door.tell(egress, None, None, era)
        return clip

    def _turn(self, stop: threading.Event) -> tuple[str, int]:
        while True:
            if stop.is_set():  # before a turn is taken, which nobody would use
                raise Stopped
            answer = self._door.take()
            if answer.egress is None and answer.wait_s > PATIENCE_S:
                raise Shut(answer.wait_s)
            if stop.is_set() or (answer.wait_s > 0 and self._wait(stop, answer.wait_s)):
                raise Stopped
            if answer.egress is not None and (
                answer.wait_s < TOLD_LATE_S or self._door.holds(answer.egress, answer.era)
            ):
                return answer.egress, answer.era

    def _fetcher(self, egress: str) -> Fetcher:
        with self._lock:
            if egress not in self._fetchers:
                before = (lambda: self._before_request(egress)) if egress in self._limited else None
                self._fetchers[egress] = self._open_by[egress](before)
            return self._fetchers[egress]

    def _before_request(self, egress: str) -> None:
        wait_s = self._door.request(egress)
        if wait_s > 0:
            self._wait(threading.Event(), wait_s)
