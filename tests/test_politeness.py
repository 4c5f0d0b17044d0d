"""When an egress may ask: budgets, breakers, restarts, and whole hours against a server that throttles."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.politeness import CALM_AFTER, RECHECK_S, Closed, Gate, Limits, Turn, choose

START = 1_000_000.0
STEADY = Limits(videos_per_hour=3600, jitter=0.0)


def gate(limits: Limits = STEADY, journal: Any = None, name: str = "home", now: float = START) -> Gate:
    return Gate(name, limits, now, journal, random.Random(7))


# ---------------------------------------------------------------- budget


def test_a_budget_starts_empty_and_is_spent_evenly() -> None:
    one = gate()
    assert [one.take(START).at - START for _ in range(4)] == [1.0, 2.0, 3.0, 4.0]


def test_what_was_not_spent_is_not_saved_up() -> None:
    one = gate()
    assert [one.take(START + 100).at - START for _ in range(3)] == [100.0, 101.0, 102.0]


def test_without_a_budget_nobody_waits() -> None:
    one = gate(Limits())
    assert {one.take(START).at for _ in range(50)} == {START}


@given(st.floats(1, 100_000), st.integers(0, 2**32), st.lists(st.floats(0, 50), max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_budget_is_kept_over_any_window(per_hour: float, seed: int, pauses: list[float]) -> None:
    """Over n gaps the jitter may make it faster by its share at most, whoever asks whenever."""
    one, now, turns = Gate("a", Limits(per_hour), START, None, random.Random(seed)), START, []
    for pause in pauses:
        now += pause
        turns.append(one.take(now).at)
    assert turns == sorted(turns)
    for i in range(len(turns)):
        for j in range(i + 1, len(turns)):
            assert turns[j] - turns[i] >= (j - i) * 3600 / per_hour * 0.7 * (1 - 1e-9)


def test_a_restart_gains_nothing() -> None:
    one = gate()
    last = max(one.take(START).at for _ in range(10))
    again = gate(journal=one.journal(), now=START + 1)
    assert again.take(START + 1).at >= last
    assert gate(journal=one.journal(), now=START + 500).take(START + 500).at == START + 501  # and starts empty


@pytest.mark.parametrize("journal", [{"paced_until": "x"}, {"opened_until": float("nan")}, {"in_a_row": -3}, {"a": 1}])
def test_a_journal_of_rubbish_is_as_good_as_none(journal: dict[str, Any]) -> None:
    assert gate(journal=journal).take(START).at == START + 1


def test_requests_have_a_limiter_of_their_own() -> None:
    one = gate(Limits(requests_per_second=4))
    assert [one.take_request(START) - START for _ in range(4)] == [0.0, 0.25, 0.5, 0.75]
    assert one.take_request(START + 9) == START + 9
    assert {gate(Limits()).take_request(START) for _ in range(5)} == {START}


@pytest.mark.parametrize(
    "limits", [{"videos_per_hour": 0}, {"requests_per_second": -1}, {"videos_per_hour": float("nan")}]
)
def test_limits_that_are_none_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected .* of 0.01"):
        Limits(**limits)


# ---------------------------------------------------------------- breaker


def test_it_opens_probes_and_closes() -> None:
    one = gate(Limits(jitter=0.0))
    early = one.take(START)
    one.throttled(START)
    assert (one.state(START), one.is_shut(START + 59)) == ("open", True)
    assert not one.holds(early)  # given before it opened
    assert choose([one], START + 10) == Closed(START + 60)
    probe = choose([one], START + 60)
    assert isinstance(probe, Turn) and one.state(START + 60) == "half_open"
    assert choose([one], START + 61) == Closed(START + 61 + RECHECK_S)  # one at a time
    one.answered(START + 62)
    assert one.state(START + 62) == "closed" and isinstance(choose([one], START + 62), Turn)


def test_the_cooldown_grows_in_a_row_and_is_capped() -> None:
    one, now, waits = gate(Limits(jitter=0.0)), START, []
    for _ in range(9):
        one.throttled(now)
        waits.append(one.opened_until - now)
        now = one.opened_until
        assert isinstance(choose([one], now), Turn)
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    one.answered(now)
    one.throttled(now + 1)
    assert one.opened_until - now - 1 == 3600  # one answer is no calm
    now = one.opened_until
    for _ in range(CALM_AFTER + 1):
        one.answered(now)
    one.throttled(now)
    assert one.opened_until - now == 60


def test_what_the_source_asks_for_is_honoured() -> None:
    one = gate(Limits(jitter=0.0))
    one.throttled(START, retry_after_s=5_000)
    assert one.opened_until == START + 5_000
    one.throttled(START + 1, retry_after_s=6_000)  # another clip was under way: no growth, but its wish counts
    assert (one.opened_until, one.in_a_row) == (START + 6_001, 1)
    one.answered(START + 2)  # so was this one
    assert one.state(START + 2) == "open"


def test_a_probe_that_tells_nothing_or_is_lost_is_made_again() -> None:
    one = gate(Limits(jitter=0.0))
    one.throttled(START)
    choose([one], START + 60)
    one.unanswered(START + 61)
    assert isinstance(choose([one], START + 62), Turn)
    assert isinstance(choose([one], START + 63), Closed)
    assert isinstance(choose([one], START + 62 + 240), Turn)


def test_a_restart_finds_the_breaker_as_it_was() -> None:
    one = gate(Limits(jitter=0.0))
    one.throttled(START)
    one.throttled(one.opened_until)
    again = gate(Limits(jitter=0.0), one.journal(), now=START + 61)
    assert (again.state(START + 61), again.opened_until, again.in_a_row) == ("open", START + 180, 2)


def test_other_egresses_go_on() -> None:
    one, other = gate(name="one"), gate(name="other")
    one.throttled(START)
    turns = [choose([one, other], START) for _ in range(3)]
    assert [turn.egress for turn in turns if isinstance(turn, Turn)] == ["other"] * 3
    other.throttled(START)
    assert choose([one, other], START) == Closed(min(one.opened_until, other.opened_until))


def test_turns_are_shared_out_by_who_is_free_first() -> None:
    slow, fast = gate(Limits(1800, jitter=0.0), name="slow"), gate(Limits(3600, jitter=0.0), name="fast")
    turns = [choose([slow, fast], START) for _ in range(9)]
    assert sorted(turn.egress for turn in turns if isinstance(turn, Turn)) == ["fast"] * 6 + ["slow"] * 3


# ---------------------------------------------------------------- hours of it


class Server:
    """Answers "too many" past so many requests in a minute, and to everything during the ban that follows."""

    def __init__(self, per_minute: int, ban_s: float, retry_after: bool) -> None:
        self.per_minute, self.ban_s, self.retry_after = per_minute, ban_s, retry_after
        self.asked: list[float] = []
        self.banned_until = 0.0
        self.bans = 0

    def ask(self, now: float) -> tuple[bool, float | None]:
        self.asked.append(now)
        if now < self.banned_until or sum(at > now - 60 for at in self.asked) > self.per_minute:
            if now >= self.banned_until:
                self.bans += 1
                self.banned_until = now + self.ban_s
            return False, (self.banned_until - now if self.retry_after else None)
        return True, None


def fetch_all(gates: list[Gate], servers: dict[str, Server], clips: int, workers: int, hours: float) -> list[float]:
    """Workers that each ask, wait for their turn, fetch for half a second, and say how it went; when clips came."""
    events: list[tuple[float, int, Callable[[float], None]]] = []
    fetched: list[float] = []
    left = clips
    count = 0

    def at(when: float, what: Callable[[float], None]) -> None:
        nonlocal count
        count += 1
        heapq.heappush(events, (when, count, what))

    def begin(now: float) -> None:
        nonlocal left
        if not left:
            return
        turn = choose(gates, now)
        if isinstance(turn, Closed):
            at(turn.until, begin)
            return
        left -= 1
        at(turn.at, lambda then: go(then, turn))

    def go(now: float, turn: Turn) -> None:
        nonlocal left
        one = next(item for item in gates if item.name == turn.egress)
        if not one.holds(turn):
            left += 1
            at(now, begin)
            return
        well, asked = servers[turn.egress].ask(now)
        at(now + 0.5, lambda then: end(then, one, well, asked))

    def end(now: float, one: Gate, well: bool, asked: float | None) -> None:
        nonlocal left
        if well:
            one.answered(now)
            fetched.append(now)
        else:
            one.throttled(now, asked)
            left += 1
        at(now, begin)

    for _ in range(workers):
        at(START, begin)
    while events and events[0][0] < START + 3600 * hours:
        when, _, what = heapq.heappop(events)
        what(when)
    return fetched


@pytest.mark.parametrize("retry_after", [True, False], ids=["says when", "says nothing"])
@pytest.mark.parametrize("budget", [None, 1800], ids=["no budget", "half of what it bears"])
@pytest.mark.parametrize("addresses", [1, 2])
def test_a_server_that_bans_is_not_hammered_and_all_clips_come(
    addresses: int, budget: float | None, retry_after: bool
) -> None:
    names = [f"address{i}" for i in range(addresses)]
    servers = {name: Server(60, 300, retry_after) for name in names}
    gates = [gate(Limits(budget), name=name) for name in names]
    fetched = fetch_all(gates, servers, clips=600, workers=8, hours=10)
    assert len(fetched) == 600
    for server in servers.values():
        # Eight are under way when it first says so. Later ones are probes, or the pace was still too quick.
        assert server.bans == 0 if budget else server.bans <= 4
        if server.bans:
            opened = server.asked[0] + 60
            late = [at for at in server.asked if at > opened]
            most = max(sum(at - 60 < other <= at for other in late) for at in late)
            assert most <= 60 + 8  # the pace that was learnt is tried out upwards, until it says so again
            refused = len(server.asked) - sum(1 for at in fetched) / addresses
            assert refused < 0.2 * len(server.asked)


def test_a_thousand_times_in_a_row_is_still_an_hour() -> None:
    gate = Gate("home", Limits(jitter=0.0), 0.0, {"in_a_row": 5000})
    gate.throttled(10.0)
    assert gate.next_turn(10.0) == 10.0 + 3600.0


def test_egresses_without_a_budget_take_turns() -> None:
    gates = [Gate(name, Limits(requests_per_second=5), 0.0) for name in "abc"]
    turns = [choose(gates, 1.0) for _ in range(6)]
    assert [turn.egress for turn in turns if isinstance(turn, Turn)] == ["a", "b", "c"] * 2


def test_a_stray_refusal_teaches_a_pace_of_seconds_that_is_soon_forgotten() -> None:
    one = gate(Limits(cooldown_s=2.0, jitter=0.0))
    for number in range(10):
        turn = choose([one], START + 0.2 * number)
        assert isinstance(turn, Turn)
    one.throttled(START + 2.0, retry_after_s=1.0)
    assert one.learnt_gap_s == pytest.approx(2 * 4.0 / 10)  # ten since START, and the next one four seconds after it
    for number in range(50):
        one.answered(START + 10.0 + number)
    assert one.learnt_gap_s == pytest.approx(0.8 * 0.8**5, rel=0.3)
    assert one.journal()["lessons"] == 1


def test_a_few_videos_teach_no_pace() -> None:
    one = gate(Limits(jitter=0.0))
    for k in range(3):
        one.take(START + k)
    one.throttled(START + 3)
    assert one.learnt_gap_s == 0 and one.state(START + 4) == "open"


def test_a_row_ends_after_an_hour_without_and_a_pace_after_a_day() -> None:
    one = gate(Limits(jitter=0.0))
    for k in range(10):
        one.take(START + k / 2)
    one.throttled(START + 5)
    one.answered(START + 70)  # the probe
    assert one.state(START + 70) == "closed" and one.in_a_row == 1 and one.learnt_gap_s > 0
    soon = Gate("a", one.limits, START + 71, one.journal())
    soon.throttled(START + 3000)
    assert soon.opened_until == START + 3000 + 2 * one.limits.cooldown_s
    late = Gate("a", one.limits, START + 71, one.journal())
    late.throttled(START + 4000)
    assert late.opened_until == START + 4000 + one.limits.cooldown_s
    assert late.learnt_gap_s == one.learnt_gap_s  # an hour is not a day
    later = Gate("a", one.limits, START + 90_000, one.journal())
    turn = later.take(START + 90_000)
    assert later.learnt_gap_s == 0 and turn.at == START + 90_000


def test_a_probe_that_is_refused_is_in_a_row_however_long_it_was_shut() -> None:
    one = gate(Limits(jitter=0.0))
    one.throttled(START, 7200.0)
    one.throttled(START + 7201)
    assert one.in_a_row == 2 and one.opened_until == START + 7201 + 2 * one.limits.cooldown_s
