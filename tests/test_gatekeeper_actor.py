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


def test_an_entry_travels() -> None:
    entry = Entry("s3://bucket/store", {"home": SLOW})
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(entry)) == entry
