"""The cluster's one gatekeeper as a Ray actor: it outlives jobs, so that the next job keeps to the same budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from pipeline.failures import Cause
from pipeline.gatekeeper import Answer, Gatekeeper
from pipeline.permits import TELLING
from pipeline.politeness import Limits, State

NAMESPACE = "avlens"
NAME = "gatekeeper-3"  # the number is that of its methods: another version of this program gets one of its own


@dataclass(frozen=True)
class Entry:
    """What a job brings to the door: its store, where budgets are written down, and its egresses' limits by name."""

    store: str
    limits: Mapping[str, Limits]


class GatekeeperServer:
    """`Gatekeeper` for callers that each say who they are: one that was restarted has forgotten all jobs."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._keeper = Gatekeeper(clock)
        self._known: set[tuple[str, frozenset[tuple[str, Limits]]]] = set()

    def take(self, entry: Entry) -> Answer:
        """See `pipeline.permits.Door`."""
        return self._for(entry).take(list(entry.limits))

    def holds(self, entry: Entry, egress: str, era: int) -> bool:
        """See `pipeline.permits.Door`."""
        return self._for(entry).holds(egress, era)

    def request(self, entry: Entry, egress: str) -> float:
        """See `pipeline.permits.Door`."""
        return self._for(entry).request(egress)

    def tell(
        self, entry: Entry, egress: str, cause: str | None, retry_after_s: float | None, era: int | None = None
    ) -> float:
        """See `pipeline.permits.Door`."""
        keeper = self._for(entry)
        if keeper.is_stale(egress, era):
            return keeper.soonest(list(entry.limits))
        if cause == Cause.THROTTLED:
            keeper.throttled(egress, retry_after_s)
        elif cause is None or cause in TELLING:
            keeper.answered(egress)
        else:
            keeper.unanswered(egress)
        return keeper.soonest(list(entry.limits))

    def down(self, entry: Entry, egress: str, era: int) -> None:
        """See `pipeline.permits.Door`."""
        keeper = self._for(entry)
        if not keeper.is_stale(egress, era):
            keeper.down(egress)

    def states(self) -> dict[str, State]:
        """The breakers by egress."""
        return self._keeper.states()

    def _for(self, entry: Entry) -> Gatekeeper:
        key = (entry.store, frozenset(entry.limits.items()))
        if key not in self._known:
            self._keeper.enter(entry.store, entry.limits)
            self._known.add(key)
        self._keeper.hear(entry.store, entry.limits)
        return self._keeper


# A byte of memory, because what asks for nothing is put on a random node; see pipeline.encoder_pool.
GatekeeperActor: Any = ray.remote(num_cpus=0, memory=1, max_restarts=-1, max_task_retries=-1)(GatekeeperServer)


def gatekeeper() -> Any:
    """The cluster's gatekeeper, started where there is none. It goes on when this job ends."""
    return GatekeeperActor.options(name=NAME, namespace=NAMESPACE, lifetime="detached", get_if_exists=True).remote()


class RayDoor:
    """A job's way to the actor; see `pipeline.permits.Door`. Travels with tasks."""

    def __init__(self, actor: Any, entry: Entry) -> None:
        self._actor, self._entry = actor, entry

    def take(self) -> Answer:
        """See `Door`."""
        return ray.get(self._actor.take.remote(self._entry))

    def holds(self, egress: str, era: int) -> bool:
        """See `Door`."""
        return ray.get(self._actor.holds.remote(self._entry, egress, era))

    def request(self, egress: str) -> float:
        """See `Door`."""
        return ray.get(self._actor.request.remote(self._entry, egress))

    def tell(
        self, egress: str, cause: Cause | None, retry_after_s: float | None = None, era: int | None = None
    ) -> float:
        """See `Door`."""
        words = None if cause is None else str(cause)
        return ray.get(self._actor.tell.remote(self._entry, egress, words, retry_after_s, era))

    def down(self, egress: str, era: int) -> None:
        """See `Door`."""
        ray.get(self._actor.down.remote(self._entry, egress, era))
