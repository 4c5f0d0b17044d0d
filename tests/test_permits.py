"""Turns that are waited for, given up, or void by the time they come, and what the door is told."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from gate_doors import Clock, LocalDoor, paced
from scripted_fetcher import ScriptedFetcher, segments

from pipeline.clip import FetchedClip
from pipeline.failures import Cause, FetchFailure, ProxyDown
from pipeline.permits import PATIENCE_S, Paced, Shut, Stopped, Unpaced
from pipeline.politeness import Limits
from pipeline.segments import Segment

CLIPS = segments(6)
GO = threading.Event()


def failing(*causes: tuple[Cause, float | None]) -> ScriptedFetcher:
    return ScriptedFetcher({CLIPS[0].key: [*(FetchFailure(cause, "no", wait) for cause, wait in causes), b"here"]})


def test_clips_come_at_the_pace_of_the_budget(tmp_path: Path) -> None:
    clock = Clock()
    source = paced(tmp_path, clock, {"home": ScriptedFetcher()}, videos_per_hour=360)
    began = clock.now
    for clip in CLIPS:
        source.fetch(clip, GO)
    assert clock.now - began == pytest.approx(60)


def test_a_long_pause_is_not_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    source = paced(tmp_path, clock, {"home": failing((Cause.THROTTLED, None))})
    with pytest.raises(FetchFailure) as caught:
        source.fetch(CLIPS[0], GO)
    assert caught.value.retry_after_s == 60
    with pytest.raises(Shut) as shut:
        source.fetch(CLIPS[1], GO)
    assert shut.value.wait_s == 60
    clock.now += 60 - PATIENCE_S  # a short one is
    assert source.fetch(CLIPS[0], GO).data == b"here"


def test_a_turn_from_before_the_breaker_opened_is_void(tmp_path: Path) -> None:
    """Somebody else is throttled while this one waits for its turn."""
    clock, fetcher = Clock(), ScriptedFetcher()
    door = LocalDoor(tmp_path, {"home": Limits(360, jitter=0.0)}, clock)

    def wait(stop: threading.Event, seconds: float) -> bool:
        if not fetcher.asked and clock.now < 1_000_001:
            door.tell("home", Cause.THROTTLED, 1000.0)
        return clock.wait(stop, seconds)

    source = Paced(door, {"home": lambda _: fetcher}, wait=wait)
    with pytest.raises(Shut):
        source.fetch(CLIPS[0], GO)
    assert not fetcher.asked


@pytest.mark.parametrize("cause", [Cause.GONE, Cause.GONE_HERE, Cause.UNDECODABLE, None])
def test_an_answer_closes_the_breaker(tmp_path: Path, cause: Cause | None) -> None:
    clock = Clock()
    script = [(Cause.THROTTLED, None), *([(cause, None)] if cause else [])]
    source = paced(tmp_path, clock, {"home": failing(*script)})
    for _ in range(2):
        clock.now += 3600
        try:
            source.fetch(CLIPS[0], GO)
        except FetchFailure as failure:
            assert failure.cause in (Cause.THROTTLED, cause)
    assert source._door.server.states() == {"home": "closed"}  # type: ignore[attr-defined]


def test_what_tells_nothing_leaves_it_and_another_probe_is_made(tmp_path: Path) -> None:
    clock = Clock()
    source = paced(tmp_path, clock, {"home": failing((Cause.THROTTLED, None), (Cause.UNREACHABLE, 5.0))})
    for _ in range(2):
        clock.now += 3600
        with pytest.raises(FetchFailure) as caught:
            source.fetch(CLIPS[0], GO)
    assert (caught.value.cause, caught.value.retry_after_s) == (Cause.UNREACHABLE, 5.0)
    assert source._door.server.states() == {"home": "half_open"}  # type: ignore[attr-defined]
    assert source.fetch(CLIPS[0], GO).data == b"here"


def test_our_own_bug_is_passed_on_and_blocks_no_probe(tmp_path: Path) -> None:
    clock = Clock()
    broken = ScriptedFetcher({CLIPS[0].key: [FetchFailure(Cause.THROTTLED, "429"), ZeroDivisionError("ours"), b"here"]})
    source = paced(tmp_path, clock, {"home": broken})
    with pytest.raises(FetchFailure):
        source.fetch(CLIPS[0], GO)
    clock.now += 3600
    with pytest.raises(ZeroDivisionError):
        source.fetch(CLIPS[0], GO)
    assert source.fetch(CLIPS[0], GO).data == b"here"


def test_who_is_stopped_asks_for_nothing(tmp_path: Path) -> None:
    stop, fetcher = threading.Event(), ScriptedFetcher()
    stop.set()
    for source in (Unpaced(fetcher), paced(tmp_path, Clock(), {"home": fetcher}, videos_per_hour=1)):
        with pytest.raises(Stopped):
            source.fetch(CLIPS[0], stop)
    assert not fetcher.asked
    assert not list(tmp_path.rglob("*.json"))  # no turn was taken either: a budget is not spent on nothing


def test_each_egress_has_a_fetcher_with_its_limiter(tmp_path: Path) -> None:
    clock, opened = Clock(), []
    door = LocalDoor(tmp_path, {"slow": Limits(requests_per_second=0.5)}, clock)

    def open_it(before: object) -> ScriptedFetcher:
        opened.append(before)
        return ScriptedFetcher()

    source = Paced(door, {"slow": open_it}, frozenset({"slow"}), clock.wait)
    for clip in CLIPS:
        source.fetch(clip, GO)
    (before,) = opened
    began = clock.now
    for _ in range(4):
        before()
    assert clock.now - began == pytest.approx(6.0)  # the first at once, then one every two seconds


class BehindADeadProxy:
    """Nothing gets out."""

    def __init__(self) -> None:
        self.tried = 0

    def fetch(self, segment: Segment) -> FetchedClip:
        self.tried += 1
        raise ProxyDown(Cause.UNREACHABLE, "ProxyError: refused")

    def close(self) -> None:
        pass


def test_a_dead_proxy_is_left_alone_and_counts_against_no_clip(tmp_path: Path) -> None:
    clock, dead = Clock(), BehindADeadProxy()
    source = paced(tmp_path, clock, {"dead": dead, "good": ScriptedFetcher()})
    for clip in CLIPS[:6]:
        assert source.fetch(clip, GO).data
    assert dead.tried == 1
    assert source._door.server.states() == {"dead": "open", "good": "closed"}  # type: ignore[attr-defined]
    alone = paced(tmp_path / "alone", clock, {"dead": dead})
    with pytest.raises(Shut):  # pending, whatever comes: nobody was asked
        alone.fetch(CLIPS[0], GO)
