"""Why a segment's media are not here: the closed list of causes, what each means for the next try, and which errors.

Source of the list and its policies: DESIGN.md section 5, "Failures are data".
"""

from __future__ import annotations

import email.utils
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import singledispatch

import av.error

LONGEST_RETRY_AFTER_S = 86_400.0  # a server that asks for a year is asked again after a day
LONGEST_WORDS = 300


class Cause(StrEnum):
    """The closed list of reasons; the value is what ledger and manifest store."""

    GONE = "gone"
    GONE_HERE = "gone_here"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    UNDECODABLE = "undecodable"
    CRASHED = "crashed"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a cause means for the next try.

    The n-th try is followed by a wait of `wait_s * growth ** (n - 1)` seconds, at most `longest_wait_s`.

    Attributes:
        rounds: tries after which the segment has failed; None: it stays pending whatever happens.
        loud: the job itself fails.
    """

    rounds: int | None
    wait_s: float = 0.0
    growth: float = 1.0
    longest_wait_s: float = 0.0
    loud: bool = False


POLICIES: dict[Cause, Policy] = {
    Cause.GONE: Policy(rounds=1),
    Cause.GONE_HERE: Policy(rounds=1),
    Cause.THROTTLED: Policy(rounds=None, wait_s=60, growth=2, longest_wait_s=3600),
    Cause.UNREACHABLE: Policy(rounds=3, wait_s=300, growth=4, longest_wait_s=86_400),
    Cause.UNDECODABLE: Policy(rounds=1),
    Cause.CRASHED: Policy(rounds=2),
    Cause.INTERNAL: Policy(rounds=1, loud=True),
}


class FetchFailure(Exception):  # noqa: N818 - a fact about the other side, the contract's name
    """A segment's media did not come; everything the ledger records about it.

    Attributes:
        cause: one of the closed list.
        words: one line for people, without anything secret (see `plain_words`).
        retry_after_s: seconds that the other side asked to wait; None when it asked for nothing.
        traffic, requests: what it cost, as far as whoever fetched counts that.
    """

    def __init__(self, cause: Cause, words: str, retry_after_s: float | None = None) -> None:
        words = sayable(words)
        # All three as positional args: what pickle and Ray restore an exception from.
        super().__init__(cause, words, retry_after_s)
        self.cause = cause
        self.words = words
        self.retry_after_s = retry_after_s
        self.traffic, self.requests = 0, 1

    def __str__(self) -> str:
        return f"{self.cause}: {self.words}"


class ProxyDown(FetchFailure):
    """The way out does not work: nobody was asked, so it says nothing of the clip."""


class Refused(FetchFailure):
    """A 401 or 403: what a media URL answers once it has expired, so it is worth one new resolve."""


def next_try_s(cause: Cause, rounds: int, retry_after_s: float | None = None) -> float | None:
    """Seconds until the next try after `rounds` tries that ended in `cause` (>= 1); None: the segment has failed.

    A final cause that came with `retry_after_s` gets one more look then: a bare "Video unavailable" may be passing.
    """
    policy = POLICIES[cause]
    if policy.rounds is not None and rounds >= policy.rounds:
        return retry_after_s if rounds == policy.rounds == 1 else None
    wait_s = min(policy.wait_s * policy.growth ** (rounds - 1), policy.longest_wait_s)
    return max(wait_s, retry_after_s or 0.0)


def parse_retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for, in [0, 86400]; None if it is absent or unreadable.

    Either a number of seconds or an HTTP date. `now` is Unix time. Source: RFC 9110, section 10.2.3.
    """
    if not value:
        return None
    value = value.strip()
    if re.fullmatch(r"\d+", value, re.ASCII):
        return min(float(value[:20]), LONGEST_RETRY_AFTER_S)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(max(moment - (time.time() if now is None else now), 0.0), LONGEST_RETRY_AFTER_S)


def sayable(words: str) -> str:
    """Words without the lone surrogates that names of files may hold: no table takes those."""
    return words.encode("utf-8", "backslashreplace").decode()


def plain_words(text: object) -> str:
    """One line of at most 300 characters without URL queries or credentials, which may be signatures or passwords."""
    line = " ".join(str(text).split())
    line = re.sub(r"(\w://)[^\s/@'\"]+@", r"\1", line)
    line = re.sub(r"\?[^\s'\"()<>,]*=[^\s'\"()<>,]*", "?…", line)
    return line if len(line) <= LONGEST_WORDS else line[: LONGEST_WORDS - 1] + "…"


_GONE_STATUSES = frozenset({404, 410, 451})


def failure_of_status(status: int, retry_after: str | None = None) -> FetchFailure:
    """The failure that an HTTP status other than 2xx stands for.

    A 503 is a 5xx and so `unreachable` even with `Retry-After`: only 429 says that it is us who are too fast, and clips
    of a server in maintenance for good must not stay pending for ever. The wait that it asks for is kept.
    """
    wait = parse_retry_after(retry_after)
    words = f"HTTP status {status}"
    if status in (401, 403):
        return Refused(Cause.UNREACHABLE, words, wait)
    if status in _GONE_STATUSES:
        return FetchFailure(Cause.GONE, words)
    if status == 402:
        return FetchFailure(Cause.GONE_HERE, words)
    return FetchFailure(Cause.THROTTLED if status == 429 else Cause.UNREACHABLE, words, wait)


@singledispatch
def classify(error: BaseException) -> FetchFailure:
    """The failure that an error stands for; what is not known is `internal`: our bug.

    Errors of sockets and PyAV are known here; `pipeline.http_errors` and `pipeline.ytdlp_errors` register those of
    requests and yt-dlp, so that only who fetches with them pays for their import.
    """
    return FetchFailure(Cause.INTERNAL, plain_words(f"{type(error).__name__}: {error}"))


@classify.register
def _(error: FetchFailure) -> FetchFailure:
    return error


@classify.register(TimeoutError)
@classify.register(ConnectionError)
def _(error: Exception) -> FetchFailure:
    # Other OSErrors (a full disk) are ours; socket.gaierror comes wrapped in requests' ConnectionError.
    return FetchFailure(Cause.UNREACHABLE, plain_words(f"{type(error).__name__}: {error}"))


@classify.register
def _(error: av.error.FFmpegError) -> FetchFailure:
    if isinstance(error, MemoryError):
        return FetchFailure(Cause.INTERNAL, plain_words(f"{type(error).__name__}: {error}"))
    return FetchFailure(Cause.UNDECODABLE, plain_words(f"{type(error).__name__}: {error}"))
