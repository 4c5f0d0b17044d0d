"""The closed list of causes: policies, statuses, Retry-After, and what known errors are classified as."""

from __future__ import annotations

import errno
import pickle
from datetime import UTC, datetime
from email.utils import format_datetime

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.failures import (
    POLICIES,
    Cause,
    FetchFailure,
    Refused,
    classify,
    failure_of_status,
    next_try_s,
    parse_retry_after,
    plain_words,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_causes_are_the_closed_list_of_the_design() -> None:
    listed = ["gone", "gone_here", "throttled", "unreachable", "undecodable", "crashed", "internal"]
    assert [str(cause) for cause in Cause] == listed
    assert set(POLICIES) == set(Cause)


@pytest.mark.parametrize("cause", [Cause.GONE, Cause.GONE_HERE, Cause.UNDECODABLE, Cause.INTERNAL])
def test_final_causes_fail_at_once(cause: Cause) -> None:
    assert next_try_s(cause, 1) is None


def test_unreachable_backs_off_and_fails_after_three_rounds() -> None:
    waits = [next_try_s(Cause.UNREACHABLE, rounds) for rounds in (1, 2, 3, 4)]
    assert waits == [300, 1200, None, None]


def test_throttled_never_fails_and_its_wait_is_capped() -> None:
    waits = [next_try_s(Cause.THROTTLED, rounds) for rounds in range(1, 200)]
    assert None not in waits
    assert waits[:3] == [60, 120, 240]
    assert max(wait for wait in waits if wait is not None) == 3600


def test_the_other_side_may_ask_for_a_longer_wait_but_not_for_a_shorter_one() -> None:
    assert next_try_s(Cause.THROTTLED, 1, 1000.0) == 1000
    assert next_try_s(Cause.THROTTLED, 1, 1.0) == 60


def test_a_final_cause_with_a_wait_gets_one_second_look() -> None:
    assert next_try_s(Cause.GONE, 1, 5.0) == 5.0
    assert next_try_s(Cause.GONE, 2, 5.0) is None


def test_crashed_is_tried_twice_and_only_internal_is_loud() -> None:
    assert next_try_s(Cause.CRASHED, 1) == 0
    assert next_try_s(Cause.CRASHED, 2) is None
    assert [cause for cause, policy in POLICIES.items() if policy.loud] == [Cause.INTERNAL]


@pytest.mark.parametrize("kind", [FetchFailure, Refused])
def test_failures_survive_pickling(kind: type[FetchFailure]) -> None:
    failure = pickle.loads(pickle.dumps(kind(Cause.THROTTLED, "slower, please", 12.5)))
    assert type(failure) is kind
    assert (failure.cause, failure.words, failure.retry_after_s) == (Cause.THROTTLED, "slower, please", 12.5)
    assert str(failure) == "throttled: slower, please"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (404, Cause.GONE),
        (410, Cause.GONE),
        (451, Cause.GONE),
        (402, Cause.GONE_HERE),
        (429, Cause.THROTTLED),
        (400, Cause.UNREACHABLE),
        (401, Cause.UNREACHABLE),
        (403, Cause.UNREACHABLE),
        (408, Cause.UNREACHABLE),
        (416, Cause.UNREACHABLE),
        (500, Cause.UNREACHABLE),
        (502, Cause.UNREACHABLE),
        (503, Cause.UNREACHABLE),
        (302, Cause.UNREACHABLE),
    ],
)
def test_statuses(status: int, cause: Cause) -> None:
    failure = failure_of_status(status)
    assert failure.cause == cause
    assert str(status) in failure.words
    assert isinstance(failure, Refused) == (status in (401, 403))


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_is_kept_for_those_who_try_again(status: int) -> None:
    assert failure_of_status(status, "17").retry_after_s == 17


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 0 ", 0),
        ("999999999", 86_400),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        (format_datetime(NOW.replace(minute=2), usegmt=True), 120),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2020 12:00:30 GMT", 0),
        ("Mon, 23 Nov 2126 12:00:30 GMT", 86_400),
        ("Mon, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@given(st.text())
def test_any_retry_after_is_a_bounded_wait_or_none(value: str) -> None:
    seconds = parse_retry_after(value)
    assert seconds is None or 0 <= seconds <= 86_400


def test_words_hold_no_secrets_and_one_short_line() -> None:
    text = "failed for url: https://user:pa55@host/videoplayback?expire=1&sig=S3CRET (Caused by\n  timeout)"
    words = plain_words(text)
    assert "S3CRET" not in words
    assert "pa55" not in words
    assert "https://host/videoplayback" in words
    assert "\n" not in words
    assert len(plain_words("x" * 1000)) == 300


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TimeoutError("read"), Cause.UNREACHABLE),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Cause.UNREACHABLE),
        (av.error.InvalidDataError(1, "Invalid data"), Cause.UNDECODABLE),
        (av.error.EOFError(1, "End of file"), Cause.UNDECODABLE),
        (OSError(errno.ENOSPC, "No space left"), Cause.INTERNAL),
        (MemoryError(), Cause.INTERNAL),
        (KeyError("x"), Cause.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_classified(error: Exception, cause: Cause) -> None:
    assert classify(error).cause == cause


def test_a_failure_is_itself() -> None:
    failure = FetchFailure(Cause.GONE, "gone")
    assert classify(failure) is failure


def test_words_that_no_table_takes_are_made_sayable() -> None:
    failure = FetchFailure(Cause.UNDECODABLE, "goodgoodgoo_0\udcff.mp4 is too large")
    assert failure.words == "goodgoodgoo_0\\udcff.mp4 is too large"
    assert pickle.loads(pickle.dumps(failure)).words == failure.words


def test_a_wait_of_very_many_digits_is_a_long_one() -> None:
    assert parse_retry_after("9" * 40) == 86_400.0
    assert parse_retry_after("\u0663") is None
