"""One door for a cluster: budgets that outlive jobs, are written down in time, and go to whoever is free."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from gate_doors import Clock

from pipeline.gatekeeper import AHEAD_S, Answer, Gatekeeper, steady_clock
from pipeline.politeness import Limits
from stores.layout import EGRESSES
from stores.storage import Storage, StorageError

BUDGET = Limits(3600, jitter=0.0)


def keeper(clock: Clock, store: Path, *names: str, limits: Limits = BUDGET) -> Gatekeeper:
    made = Gatekeeper(clock)
    made.enter(str(store), dict.fromkeys(names or ("home",), limits))
    return made


def journal(store: Path, name: str = "home") -> dict[str, float]:
    return json.loads((store / EGRESSES / f"{name}.json").read_text())


def test_turns_are_given_in_seconds_from_now(tmp_path: Path) -> None:
    one = keeper(Clock(), tmp_path)
    assert [one.take(["home"]) for _ in range(2)] == [Answer(1.0, "home", 0), Answer(2.0, "home", 0)]


def test_a_restart_at_any_moment_spends_no_more_than_the_budget(tmp_path: Path) -> None:
    """Its actor is lost every few seconds; whatever it had given counts."""
    clock, turns = Clock(), []
    for life in range(40):
        one = keeper(clock, tmp_path)
        for _ in range(life % 7):
            answer = one.take(["home"])
            clock.now += answer.wait_s
            turns.append(clock.now)
        clock.now += 0.3
    assert len(turns) > 100
    assert all(later - earlier >= 1 - 1e-6 for earlier, later in pairwise(turns))


def test_turns_that_were_given_ahead_count_after_a_restart(tmp_path: Path) -> None:
    """Eight threads wait for theirs when the actor is lost; they will ask at their turns all the same."""
    clock = Clock()
    ahead = [keeper(clock, tmp_path).take(["home"]).wait_s for _ in range(3)]
    one = keeper(clock, tmp_path)
    given = [one.take(["home"]).wait_s for _ in range(8)]
    again = keeper(clock, tmp_path).take(["home"]).wait_s
    assert ahead == sorted(ahead) and given[0] > ahead[-1] and again > max(given)


def test_it_writes_every_few_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, written = Clock(), []
    publish = Storage.publish
    monkeypatch.setattr(Storage, "publish", lambda *a, **k: (written.append(a[1]), publish(*a, **k)))
    one = keeper(clock, tmp_path, limits=Limits(360_000, jitter=0.0))
    for _ in range(3000):  # thirty seconds of a hundred a second
        clock.now += one.take(["home"]).wait_s
    assert 5 <= len(written) <= 30 / AHEAD_S + 1
    assert journal(tmp_path)["paced_until"] >= clock.now - 1e-3


def test_the_breaker_is_written_down_at_once_also_without_a_budget(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(clock, tmp_path, limits=Limits(jitter=0.0))
    one.take(["home"])
    assert not (tmp_path / EGRESSES).exists()
    one.throttled("home", 500.0)
    assert journal(tmp_path)["opened_until"] == clock.now + 500
    again = keeper(clock, tmp_path, limits=Limits(jitter=0.0))
    assert again.take(["home"]) == Answer(500.0) and again.states() == {"home": "open"}
    clock.now += 500
    again.take(["home"])
    again.answered("home")
    assert journal(tmp_path)["opened_until"] == 0


def test_a_second_job_keeps_to_what_the_first_has_spent_and_writes_to_its_own_store_too(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(clock, tmp_path / "a")
    for _ in range(10):
        one.take(["home"])
    one.enter(str(tmp_path / "b"), {"home": Limits(3600 * 5, jitter=0.0)})
    assert one.take(["home"]).wait_s == 11.0
    clock.now += AHEAD_S
    one.take(["home"])
    assert journal(tmp_path / "b")["paced_until"] > journal(tmp_path / "a")["paced_until"]
    one.hear(str(tmp_path / "a"), {"home": BUDGET})
    clock.now += AHEAD_S
    one.take(["home"])
    assert journal(tmp_path / "a")["paced_until"] > journal(tmp_path / "b")["paced_until"]


def test_a_store_that_is_gone_is_not_made_again_by_another_jobs_turns(tmp_path: Path) -> None:
    one = keeper(Clock(), tmp_path / "a")
    one.enter(str(tmp_path / "b"), {"home": BUDGET})
    one.take(["home"])
    assert (tmp_path / "b" / EGRESSES).exists() and not (tmp_path / "a" / EGRESSES).exists()


def test_a_journal_that_is_rubbish_or_out_of_reach_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / EGRESSES).mkdir()
    for text in ("{", "[1]", '{"paced_until": "soon"}'):
        (tmp_path / EGRESSES / "home.json").write_text(text)
        assert keeper(Clock(), tmp_path).take(["home"]).egress == "home"

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the bucket does not answer")

    monkeypatch.setattr(Storage, "publish", fail)
    monkeypatch.setattr(Storage, "read_versioned", fail)
    assert keeper(Clock(), tmp_path).take(["home"]).egress == "home"


def test_the_soonest_of_several(tmp_path: Path) -> None:
    one = keeper(Clock(), tmp_path, "a", "b", limits=Limits(jitter=0.0))
    one.throttled("a", 100.0)
    assert one.soonest(["a"]) == 100 and one.soonest(["a", "b"]) == 0
    assert one.take(["a", "b"]).egress == "b"


def test_requests_have_their_own_pace(tmp_path: Path) -> None:
    one = keeper(Clock(), tmp_path, limits=Limits(requests_per_second=2))
    assert [one.request("home") for _ in range(3)] == [0.0, 0.5, 1.0]


def test_what_was_asked_before_the_breaker_opened_says_nothing_of_later(tmp_path: Path) -> None:
    clock = Clock()
    one = keeper(clock, tmp_path, limits=Limits(jitter=0.0))
    early = one.take(["home"])
    one.throttled("home", 100.0)
    assert not one.is_stale("home", early.era)  # while it is open, another 429 may ask for longer
    clock.now += 100
    probe = one.take(["home"])
    assert one.is_stale("home", early.era) and not one.is_stale("home", probe.era)
    again = keeper(clock, tmp_path, limits=Limits(jitter=0.0))  # its actor is lost and comes back
    assert not again.holds("home", early.era)


def test_its_clock_goes_on_whatever_the_machines_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = steady_clock()
    before = clock()
    assert abs(before - time.time()) < 5
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: 0.0)
        assert 0 <= clock() - before < 5
