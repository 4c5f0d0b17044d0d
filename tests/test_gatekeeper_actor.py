"""Callers that say who they are, to a gatekeeper that may have been restarted. The actor runs in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from gate_doors import Clock

from pipeline.failures import Cause
from pipeline.gatekeeper_actor import Entry, GatekeeperServer
from pipeline.politeness import Limits

SLOW = Limits(3600, jitter=0.0)


def test_one_that_was_restarted_knows_the_job_from_its_next_call(tmp_path: Path) -> None:
    clock, entry = Clock(), Entry(str(tmp_path), {"home": SLOW})
    first = GatekeeperServer(clock)
    given = [first.take(entry).wait_s for _ in range(5)]
    again = GatekeeperServer(clock)
    assert again.take(entry).wait_s > given[-1]
    assert again.holds(entry, "home", 0)
    assert GatekeeperServer(clock).request(entry, "home") == 0.0


@pytest.mark.parametrize(
    ("cause", "state"),
    [(None, "closed"), (Cause.GONE, "closed"), (Cause.UNREACHABLE, "half_open"), (Cause.INTERNAL, "half_open")],
)
def test_what_it_is_told_moves_the_breaker(tmp_path: Path, cause: Cause | None, state: str) -> None:
    clock, entry = Clock(), Entry(str(tmp_path), {"home": Limits(jitter=0.0)})
    server = GatekeeperServer(clock)
    server.take(entry)
    assert server.tell(entry, "home", "throttled", None) == 60
    clock.now += 60
    server.take(entry)
    server.tell(entry, "home", None if cause is None else str(cause), None)
    assert server.states() == {"home": state}


def test_two_jobs_are_two_callers_of_one_budget(tmp_path: Path) -> None:
    server = GatekeeperServer(Clock())
    one, two = (Entry(str(tmp_path / name), {"home": SLOW}) for name in ("one", "two"))
    assert [server.take(entry).wait_s for entry in (one, two, one, two)] == [1.0, 2.0, 3.0, 4.0]


def test_each_job_keeps_to_its_own_limits(tmp_path: Path) -> None:
    """One with another budget comes beside it, by the same address: the first does not ask at the second's pace."""
    server = GatekeeperServer(Clock())
    slow, fast = (Entry(str(tmp_path), {"home": limits}) for limits in (SLOW, Limits(jitter=0.0)))
    first = server.take(slow).wait_s
    at_once = [server.take(fast).wait_s for _ in range(3)]
    assert at_once[0] > first and len(set(at_once)) == 1
    turns = [server.take(slow).wait_s for _ in range(3)]
    assert turns == [at_once[0], at_once[0] + 1.0, at_once[0] + 2.0]


def test_a_late_answer_closes_no_breaker(tmp_path: Path) -> None:
    clock, entry = Clock(), Entry(str(tmp_path), {"home": Limits(jitter=0.0)})
    server = GatekeeperServer(clock)
    early = server.take(entry)
    server.tell(entry, "home", "throttled", None, early.era)
    clock.now += 60
    probe = server.take(entry)
    server.tell(entry, "home", None, None, early.era)
    assert server.states() == {"home": "half_open"}
    server.tell(entry, "home", None, None, probe.era)
    assert server.states() == {"home": "closed"}


def test_an_entry_travels() -> None:
    entry = Entry("s3://bucket/store", {"home": SLOW})
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(entry)) == entry
