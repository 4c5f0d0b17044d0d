"""When an egress may ask a source for the next video: a budget, a limiter of requests, and a circuit breaker.

An egress is an address that a source sees us come from. Everything here is a function of the times that it is given
(Unix time, in seconds), so that one actor can keep it for a whole cluster and write it down for the next one.

A budget starts empty and is spent evenly. What was reserved when the breaker opens is void. The breaker is closed until
the source says that we are too fast; then it is open, for a time that grows with each time in a row and is never
shorter than what the source asked for; then one video is tried, and what comes of it closes the breaker or opens it
again.

Source: DESIGN.md section 5, "Politeness".
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["closed", "open", "half_open"]
CALM_AFTER = 20  # answers after which being throttled once more is no longer "in a row"
MINUTE = 60.0
DAY = 86_400.0
SLOWEST, QUICKEST = 0.01, 1e6  # limits beyond these are slips
FIELDS = ("opened_until", "paced_until", "closed_at", "in_a_row", "learnt_gap_s", "lessons", "era")  # of the journal
TIMES = ("opened_until", "paced_until", "closed_at")
RECHECK_S = 5.0  # while a probe is under way
# A pace that was learnt is quickened after every so many answers: soon while it is a first guess, then with care.
GUESS_EASED, GUESS_AFTER = 0.8, 10
EASED = 0.95
FEWEST = 4  # videos in the last minute: fewer say nothing of the pace that would have been well


@dataclass(frozen=True)
class Limits:
    """What an egress may do.

    Attributes:
        videos_per_hour: None for no limit.
        requests_per_second: None for no limit.
        jitter: each gap between videos is stretched or shrunk by up to this share, so that the pace is no metronome.
        cooldown_s, growth, longest_cooldown_s: how long the breaker stays open, the first time and in a row.
        probe_s: how long the answer to a probe is waited for before another is made: its worker may be lost.
    """

    videos_per_hour: float | None = None
    requests_per_second: float | None = None
    jitter: float = 0.3
    cooldown_s: float = 60.0
    growth: float = 2.0
    longest_cooldown_s: float = 3600.0
    probe_s: float = 240.0

    def __post_init__(self) -> None:
        for name in ("videos_per_hour", "requests_per_second"):
            value = getattr(self, name)
            if value is not None and not SLOWEST <= value <= QUICKEST:
                raise ValueError(f"expected {name} of {SLOWEST:g} to {QUICKEST:g}, got {str(value)[:30]}")


@dataclass(frozen=True)
class Turn:
    """Leave to ask for a video.

    Attributes:
        egress: by which.
        at: when; what opens the breaker before makes it void.
        era: how often the breaker had opened when it was given.
    """

    egress: str
    at: float
    era: int


@dataclass(frozen=True)
class Closed:
    """Nobody may ask for anything now.

    Attributes:
        until: when to ask again.
    """

    until: float


class Gate:
    """One egress.

    Args:
        now: the time.
        journal: what an earlier gate of this egress wrote down; it is not trusted to be whole.
        rng: of the jitter.
    """

    def __init__(
        self, name: str, limits: Limits, now: float, journal: Mapping[str, Any] | None = None, rng: Any = random
    ) -> None:
        self.name, self.limits, self._random = name, limits, rng
        self.era, self.in_a_row = 0, 0
        self.opened_until = self.paced_until = self.closed_at = 0.0
        self.learnt_gap_s, self.lessons = 0.0, 0
        self._answers = CALM_AFTER
        self._probe_until: float | None = None
        self._given: deque[float] = deque(maxlen=10_000)
        self._next_request = now
        self.taken = 0
        for key, value in (journal or {}).items():
            if key in FIELDS:
                most = now + DAY if key in TIMES else DAY
                setattr(self, key, type(getattr(self, key))(sensible(value, most)))
        if self.opened_until:
            self._answers = 0
        # Whatever happened before: a restart waits for its first turn like any other.
        self.paced_until = max(self.paced_until, now + self._gap())

    # ---------------------------------------------------------------- asking

    def state(self, now: float) -> State:
        """Whether the breaker lets all through, none, or one."""
        if not self.opened_until:
            return "closed"
        return "open" if now < self.opened_until else "half_open"

    def next_turn(self, now: float) -> float:
        """When somebody who asks now would get a turn; with the breaker open, when it would be worth asking again."""
        state = self.state(now)
        if state == "open":
            return self.opened_until
        if state == "half_open" and self._is_probed(now):
            return now + RECHECK_S
        return max(now, self.paced_until)

    def is_shut(self, now: float) -> bool:
        """Whether nobody gets a turn now, not even a later one."""
        state = self.state(now)
        return state == "open" or (state == "half_open" and self._is_probed(now))

    def _is_probed(self, now: float) -> bool:
        return self._probe_until is not None and now < self._probe_until

    def take(self, now: float) -> Turn:
        """The next turn; `is_shut` must not hold."""
        assert not self.is_shut(now)
        self._forget(now)
        at = self.next_turn(now)
        if self.state(now) == "half_open":
            self._probe_until = at + self.limits.probe_s
        self.paced_until = at + self._gap()
        self._given.append(at)
        self.taken += 1
        return Turn(self.name, at, self.era)

    def next_request(self, now: float) -> float:
        """When a plain request could go out."""
        return max(now, self._next_request)

    def take_request(self, now: float) -> float:
        """When the next plain request may go out."""
        at = max(now, self._next_request)
        rate = self.limits.requests_per_second
        self._next_request = at + (1 / rate if rate else 0.0)
        return at

    def holds(self, turn: Turn) -> bool:
        """Whether a turn is still good."""
        return turn.era == self.era

    # ---------------------------------------------------------------- being told

    def answered(self, now: float) -> None:
        """The source answered, be it that the video is gone: we are not too fast."""
        state = self.state(now)
        if state == "open":
            return  # asked for before it opened
        if state == "half_open":
            self.opened_until, self._probe_until, self.closed_at = 0.0, None, now
            self._answers = 0
        self._answers += 1
        if self._answers % CALM_AFTER == 0:
            self.in_a_row = 0
        every, eased = (GUESS_AFTER, GUESS_EASED) if self.lessons == 1 else (CALM_AFTER, EASED)
        if self._answers % every == 0:
            self.learnt_gap_s *= eased

    def unanswered(self, now: float) -> None:
        """Nothing can be told from what came: a probe is made again."""
        if self.state(now) == "half_open":
            self._probe_until = None

    def throttled(self, now: float, retry_after_s: float | None = None) -> None:
        """The source says that we are too fast."""
        was_closed = self.state(now) == "closed"
        self._open(now, now + (retry_after_s or 0.0))
        if was_closed:
            self._learn(now)
            self.paced_until = max(self.paced_until, now + self._gap())

    def down(self, now: float) -> None:
        """Nothing gets out by this egress: it rests as if it were throttled, but nobody was too fast."""
        self._open(now, now)

    def _open(self, now: float, asked: float) -> None:
        if self.state(now) == "open":  # others were under way when it opened: once is enough
            self.opened_until = max(self.opened_until, asked)
            return
        self._forget(now)
        self.era += 1
        growth = self.limits.growth ** min(self.in_a_row, 32)
        cooldown = min(self.limits.longest_cooldown_s, self.limits.cooldown_s * growth)
        self.in_a_row += 1
        self.opened_until = max(asked, now + cooldown * (1 + self.limits.jitter * self._random.random()))
        self.paced_until = max(now + self._gap(), min(self.paced_until, self.opened_until))
        self._probe_until, self._answers = None, 0

    def _forget(self, now: float) -> None:
        """What was said long ago is not held against it: a row ends with the longest cool-down's time without being
        throttled, and what pace is well is another day's question."""
        calm_s = now - self.closed_at if self.state(now) == "closed" else 0.0
        if calm_s > self.limits.longest_cooldown_s:
            self.in_a_row = 0
        if calm_s > DAY and self.learnt_gap_s:
            self.learnt_gap_s, self.lessons = 0.0, 0
            self.paced_until = min(self.paced_until, now + self._gap())

    def _learn(self, now: float) -> None:
        """What was too fast is known now: from here on at most half of it.

        Too many were asked for since the first of them; by when the breaker lets the next one through, so many would
        have been well. A source that says to wait for a second does not count by the minute.
        """
        while self._given and self._given[0] <= now - MINUTE:
            self._given.popleft()
        lately = [at for at in self._given if at <= now]
        if len(lately) >= FEWEST:
            window = min(MINUTE, self.opened_until - lately[0])
            self.learnt_gap_s = max(self.learnt_gap_s, 2 * window / len(lately))
            self.lessons += 1

    def _gap(self) -> float:
        budget = self.limits.videos_per_hour
        spread = 1 + self.limits.jitter * (2 * self._random.random() - 1)
        return max(self.learnt_gap_s, 3600.0 / budget * spread if budget else 0.0)

    def journal(self) -> dict[str, float]:
        """What the next gate of this egress needs to know, as JSON."""
        return {name: getattr(self, name) for name in FIELDS}


def sensible(value: Any, most: float) -> float:
    """A number of a journal, from 0 to `most`; 0 for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return 0.0
    return min(max(0, value), most)


def choose(gates: Sequence[Gate], now: float) -> Turn | Closed:
    """The earliest turn that any of several egresses has; of equal ones the turn of who has asked least so far.
    `Closed` where all are shut."""
    open_ones = [gate for gate in gates if not gate.is_shut(now)]
    if not open_ones:
        return Closed(min(gate.next_turn(now) for gate in gates))
    return min(open_ones, key=lambda gate: (gate.next_turn(now), gate.next_request(now), gate.taken)).take(now)
