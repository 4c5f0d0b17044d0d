"""All egresses of a cluster behind one door: who may ask next, by which address, and what is written down of it.

Knows no Ray: `pipeline.permits` makes an actor of it. Its clock is the only one, so it answers in seconds from now.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.politeness import DAY, Closed, Gate, Limits, State, Turn, choose, sensible
from stores.layout import EGRESSES
from stores.storage import Storage, StorageError

logger = logging.getLogger(__name__)

AHEAD_S = 5.0


@dataclass(frozen=True)
class Answer:
    """What who asks for a video is told.

    Attributes:
        wait_s: seconds until the turn, or until it is worth asking again.
        egress: whose turn it is; None: all are shut.
        era: given back to ask whether the turn still holds.
    """

    wait_s: float
    egress: str | None = None
    era: int = 0


def steady_clock() -> Callable[[], float]:
    """Unix time, going on evenly whatever the machine's clock is set to: turns would move with it."""
    wall, since = time.time(), time.monotonic()
    return lambda: wall + time.monotonic() - since


class Gatekeeper:
    """Budgets and breakers by egress.

    The store of the job that asks is where they are written down, `egress/<name>.json`, before a turn is given. What a
    budget may spend in the next seconds is written down as spent, so that a quick one is not written down every time.

    Args:
        clock: Unix time; None: `steady_clock`.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or steady_clock()
        self._gates: dict[str, Gate] = {}
        self._stores: dict[str, Storage] = {}
        self._store = ""
        self._written: dict[tuple[str, str], float] = {}

    def hear(self, store: str, limits: Mapping[str, Limits]) -> None:
        """Who asks next is a job of this store, with these limits: of two jobs each keeps to its own."""
        self._store = store
        for name, given in limits.items():
            self._gates[name].limits = given

    def enter(self, store: str, limits: Mapping[str, Limits]) -> None:
        """A job comes with its egresses. Those that are known keep what they have spent, and get the job's limits."""
        storage = self._stores.setdefault(store, Storage(store))
        self._store = store
        for name, given in limits.items():
            journal = _read(storage, name)
            if name not in self._gates:
                self._gates[name] = Gate(name, given, self._clock(), journal)
                continue
            gate = self._gates[name]
            gate.limits = given
            for key in ("paced_until", "opened_until"):
                setattr(gate, key, max(getattr(gate, key), sensible(journal.get(key), self._clock() + DAY)))

    def take(self, names: Sequence[str]) -> Answer:
        """A turn by one of several egresses, which `enter` has named."""
        now = self._clock()
        found = choose([self._gates[name] for name in names], now)
        if isinstance(found, Closed):
            return Answer(found.until - now)
        self._write(self._gates[found.egress], now)
        return Answer(found.at - now, found.egress, found.era)

    def holds(self, egress: str, era: int) -> bool:
        """Whether a turn that was waited for is still good."""
        return self._gates[egress].holds(Turn(egress, 0.0, era))

    def request(self, egress: str) -> float:
        """Seconds until the next plain HTTP request of an egress may go out."""
        now = self._clock()
        return self._gates[egress].take_request(now) - now

    def is_stale(self, egress: str, era: int | None) -> bool:
        """Whether what comes of a turn says nothing of now: the breaker has opened since, and it is past that."""
        gate = self._gates[egress]
        return era is not None and era < gate.era and gate.state(self._clock()) != "open"

    def answered(self, egress: str) -> None:
        """The source gave what was asked for, or said that it is gone."""
        gate, now = self._gates[egress], self._clock()
        shut = gate.state(now) != "closed"
        gate.answered(now)
        if shut:
            self._write(gate, now, at_once=True)

    def unanswered(self, egress: str) -> None:
        """Nothing can be told from what came."""
        self._gates[egress].unanswered(self._clock())

    def throttled(self, egress: str, retry_after_s: float | None) -> None:
        """The source says that we are too fast."""
        self._rest(egress, "throttled", lambda gate, now: gate.throttled(now, retry_after_s))

    def down(self, egress: str) -> None:
        """Nothing gets out by an egress."""
        self._rest(egress, "its proxy does not answer", Gate.down)

    def _rest(self, egress: str, why: str, shut: Callable[[Gate, float], None]) -> None:
        gate, now = self._gates[egress], self._clock()
        before = gate.era
        shut(gate, now)
        self._write(gate, now, at_once=True)
        if gate.era != before:  # once for all that were under way
            logger.warning("%s: %s; nobody asks by it for %.0f s", egress, why, gate.opened_until - now)

    def soonest(self, names: Sequence[str]) -> float:
        """Seconds until any of several egresses is worth trying."""
        now = self._clock()
        return min(self._gates[name].next_turn(now) for name in names) - now

    def states(self) -> dict[str, State]:
        """The breakers."""
        now = self._clock()
        return {name: gate.state(now) for name, gate in self._gates.items()}

    def _write(self, gate: Gate, now: float, at_once: bool = False) -> None:
        budget, place = gate.limits.videos_per_hour is not None, (self._store, gate.name)
        if not at_once and (not budget or gate.paced_until <= self._written.get(place, 0.0)):
            return
        journal = gate.journal()
        if budget:
            journal["paced_until"] = max(journal["paced_until"], now + AHEAD_S)
        self._written[place] = journal["paced_until"]
        try:
            self._stores[self._store].publish(f"{EGRESSES}/{gate.name}.json", json.dumps(journal).encode())
        except StorageError as error:  # the budget is kept meanwhile; only a restart now would not know of it
            logger.warning("%s: what it has spent cannot be written down: %s", gate.name, error)


def _read(storage: Storage, name: str) -> dict[str, Any]:
    try:
        data, _ = storage.read_versioned(f"{EGRESSES}/{name}.json")
        found = json.loads(data) if data else {}
    except (StorageError, ValueError, RecursionError) as error:
        logger.warning("%s: what it has spent cannot be read: %s", name, error)
        return {}
    return found if isinstance(found, dict) else {}
