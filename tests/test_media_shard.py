"""Media shards: every outcome survives a crash, nothing is asked for twice, nothing throttled is ever lost."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import gate_doors
import pytest
from scripted_fetcher import ScriptedFetcher, segments

from pipeline.failures import Cause, FetchFailure
from pipeline.media_shard import FetchPolicy, build_media_shard
from pipeline.permits import Unpaced
from stores.layout import Store, StoreError
from stores.ledger import read_ledger
from stores.spool import Spool
from stores.storage import Conflict, Storage, StorageError

PLANNED = segments(6)
KEYS = [segment.key for segment in PLANNED]
NO_WAIT = FetchPolicy(threads=3, wait_s=0.0)


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(str(tmp_path / "store"), shard_size=6)


def build(store: Store, fetcher: ScriptedFetcher, policy: FetchPolicy = NO_WAIT, clock: Clock | None = None):
    return build_media_shard(store, "eval", 0, PLANNED, Unpaced(fetcher), policy, now=clock or Clock())


def rows(store: Store):
    ledger = read_ledger(store, "eval", 0)
    assert ledger is not None
    return ledger.rows


def test_all_clips_are_fetched_once_and_lie_in_one_tar_where_the_ledger_says(store: Store) -> None:
    fetcher = ScriptedFetcher()
    report = build(store, fetcher)
    assert report.committed
    assert report.summary["fetched"] == 6
    assert fetcher.asked == dict.fromkeys(KEYS, 1)
    tar = Path(store.storage.root, "media/eval", rows(store)[0].tar)
    data = tar.read_bytes()
    for row in rows(store):
        assert data[row.offset : row.offset + row.media_bytes] == b"media of " + row.key.encode()
    with tarfile.open(tar) as archive:
        assert archive.getnames() == [f"{key}.{kind}" for key in KEYS for kind in ("json", "mp4")]
        sidecar = json.load(archive.extractfile(f"{KEYS[2]}.json"))
    assert (sidecar["key"], sidecar["media_start_ms"]) == (KEYS[2], 250)
    assert Spool(store, "eval", 0).rows() == {}


def test_a_finished_shard_is_left_alone(store: Store) -> None:
    build(store, ScriptedFetcher())
    before = store.storage.read_versioned("media/eval/00000.parquet")
    fetcher = ScriptedFetcher()
    report = build(store, fetcher)
    assert (report.tried, fetcher.asked) == (0, {})
    assert store.storage.read_versioned("media/eval/00000.parquet") == before


def test_each_cause_ends_as_its_policy_says(store: Store) -> None:
    script = {
        KEYS[0]: [FetchFailure(Cause.GONE, "HTTP status 404")],
        KEYS[1]: [FetchFailure(Cause.GONE_HERE, "members only")],
        KEYS[2]: [FetchFailure(Cause.UNDECODABLE, "text")],
        KEYS[3]: [FetchFailure(Cause.UNREACHABLE, "HTTP status 500")],
    }
    build(store, ScriptedFetcher(script))
    found = [(row.status, row.cause, row.words, row.attempts) for row in rows(store)]
    assert found[:4] == [
        ("failed", "gone", "HTTP status 404", 1),
        ("failed", "gone_here", "members only", 1),
        ("failed", "undecodable", "text", 1),
        ("pending", "unreachable", "HTTP status 500", 1),
    ]
    assert [row.status for row in rows(store)[4:]] == ["fetched", "fetched"]


def test_unreachable_is_given_up_after_three_rounds_and_not_before_its_time(store: Store) -> None:
    clock = Clock()
    fetcher = ScriptedFetcher({KEYS[0]: [FetchFailure(Cause.UNREACHABLE, "time-out")]})
    for tries in (1, 2, 3):
        build(store, fetcher, clock=clock)
        assert fetcher.asked[KEYS[0]] == tries
        if tries < 3:
            row = rows(store)[0]
            assert (row.status, row.rounds) == ("pending", tries)
            assert row.not_before > clock.time
            clock.time = row.not_before - timedelta(seconds=1)
            build(store, fetcher, clock=clock)
            assert fetcher.asked[KEYS[0]] == tries
            clock.time = row.not_before
    assert (rows(store)[0].status, rows(store)[0].attempts) == ("failed", 3)


def test_throttling_stops_the_shard_and_never_becomes_a_loss(store: Store, tmp_path: Path) -> None:
    clock, seconds = Clock(), gate_doors.Clock()
    fetcher = ScriptedFetcher({KEYS[0]: [FetchFailure(Cause.THROTTLED, "HTTP status 429", 40.0)] * 9 + [b"at last"]})
    source = gate_doors.paced(tmp_path, seconds, {"home": fetcher})
    policy = FetchPolicy(threads=1, wait_s=0.0)
    report = build_media_shard(store, "eval", 0, PLANNED, source, policy, now=clock)
    assert fetcher.asked == {KEYS[0]: 1}  # nobody else was asked for after the first 429
    assert report.shut_s == 60 and not report.committed  # it is waited for: the others are not even due
    assert read_ledger(store, "eval", 0) is None and Spool(store, "eval", 0).rows()[0].cause == "throttled"
    for _ in range(9):
        seconds.now += 7200
        clock.time += timedelta(hours=2)
        report = build_media_shard(store, "eval", 0, PLANNED, source, policy, now=clock)
    assert report.committed and {row.status for row in rows(store)} == {"fetched"}
    assert rows(store)[0].attempts == 10 and fetcher.asked == {**dict.fromkeys(KEYS, 1), KEYS[0]: 10}


def test_another_address_goes_on(store: Store, tmp_path: Path) -> None:
    """What one address was told "too many" for is fetched by the other, at once, and in the same call."""
    clock, seconds = Clock(), gate_doors.Clock()
    bad = ScriptedFetcher({key: [FetchFailure(Cause.THROTTLED, "429", 5000.0)] for key in KEYS})
    good = ScriptedFetcher()
    source = gate_doors.paced(tmp_path, seconds, {"bad": bad, "good": good})
    policy = FetchPolicy(threads=1, wait_s=0.0)
    assert not build_media_shard(store, "eval", 0, PLANNED, source, policy, now=clock).committed
    assert build_media_shard(store, "eval", 0, PLANNED, source, policy, now=clock).committed
    assert bad.asked.total() == 1 and good.asked == dict.fromkeys(KEYS, 1)


def test_the_throttled_clip_goes_last_so_that_the_others_get_their_turn(store: Store) -> None:
    clock = Clock()
    fetcher = ScriptedFetcher({KEYS[0]: [FetchFailure(Cause.THROTTLED, "429", 1.0)]})
    policy = FetchPolicy(threads=1, wait_s=0.0)
    build(store, fetcher, policy, clock)
    clock.time += timedelta(hours=2)
    build(store, fetcher, policy, clock)
    assert [row.status for row in rows(store)] == ["pending"] + ["fetched"] * 5


def test_a_commit_waits_for_clips_that_come_due_soon(store: Store) -> None:
    clock = Clock()
    fetcher = ScriptedFetcher({KEYS[0]: [FetchFailure(Cause.UNREACHABLE, "reset"), b"here"]})
    policy = FetchPolicy(threads=2, wait_s=60.0, retry_delay_s=10.0)
    report = build(store, fetcher, policy, clock)
    assert not report.committed
    assert report.summary["next_attempt"] == (clock.time + timedelta(seconds=10)).isoformat()
    assert read_ledger(store, "eval", 0) is None
    clock.time += timedelta(seconds=10)
    assert build(store, fetcher, policy, clock).committed
    assert fetcher.asked == {**dict.fromkeys(KEYS, 1), KEYS[0]: 2}
    assert len({row.tar for row in rows(store)}) == 1


@pytest.mark.parametrize("step", ["spool", "tar", "ledger"])
def test_a_crash_loses_only_what_was_in_flight(store: Store, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = ScriptedFetcher()
    with monkeypatch.context() as patch:

        def crash(*_: object, **__: object) -> None:
            raise StorageError("the machine stops here")

        if step == "spool":
            put = Spool.put

            def put_some(self: Spool, row, media) -> None:
                if row.position == 4:
                    crash()
                put(self, row, media)

            patch.setattr(Spool, "put", put_some)
        elif step == "tar":
            patch.setattr(Storage, "publish_file", crash)
        else:
            patch.setattr("pipeline.media_shard.commit_ledger", crash)
        with pytest.raises(StorageError):
            build(store, fetcher, FetchPolicy(threads=1, wait_s=0.0))
    assert read_ledger(store, "eval", 0) is None  # nothing half-visible
    in_flight = 1 if step == "spool" else 0
    build(store, fetcher)
    assert {row.status for row in rows(store)} == {"fetched"}
    assert fetcher.asked.total() <= 6 + in_flight


def test_retry_asks_for_exactly_the_named_causes_and_adds_a_second_tar(store: Store) -> None:
    script = {KEYS[0]: [FetchFailure(Cause.GONE, "404"), b"back"], KEYS[1]: [FetchFailure(Cause.UNDECODABLE, "text")]}
    fetcher = ScriptedFetcher(script)
    build(store, fetcher)
    first = {row.tar for row in rows(store)} - {None}
    build(store, fetcher, FetchPolicy(threads=2, wait_s=0.0, retry=frozenset({Cause.GONE})))
    assert fetcher.asked == {**dict.fromkeys(KEYS, 1), KEYS[0]: 2}
    assert rows(store)[0].status == "fetched"
    assert rows(store)[1].status == "failed"
    tars = {row.tar for row in rows(store)} - {None}
    assert first < tars
    assert len(tars) == 2
    assert set(read_ledger(store, "eval", 0).tars) == tars


def test_dropped_media_stay_in_the_spool_while_columns_need_them(store: Store) -> None:
    build(store, ScriptedFetcher(), FetchPolicy(keep_media=False, keep_spool=True, wait_s=0.0))
    assert {row.tar for row in rows(store)} == {None}
    assert Spool(store, "eval", 0).media(3) == b"media of " + KEYS[3].encode()
    assert store.sizes("media/eval").keys() == {"media/eval/00000.parquet"}


def test_a_bug_is_loud_and_keeps_what_was_there(store: Store) -> None:
    fetcher = ScriptedFetcher({KEYS[5]: [ZeroDivisionError("ours")]})
    with pytest.raises(ZeroDivisionError):
        build(store, fetcher, FetchPolicy(threads=1, wait_s=0.0))
    internal = ScriptedFetcher({KEYS[5]: [FetchFailure(Cause.INTERNAL, "KeyError: 'x'")]})
    with pytest.raises(FetchFailure, match="KeyError"):
        build(store, internal, FetchPolicy(threads=1, wait_s=0.0))
    assert internal.asked == {KEYS[5]: 1}
    assert read_ledger(store, "eval", 0) is None


def test_two_jobs_on_one_shard_cannot_overwrite_each_other(store: Store) -> None:
    other = ScriptedFetcher()
    fetcher = ScriptedFetcher()
    done: list[bool] = []

    def interfere(segment) -> None:
        if not done:
            done.append(True)
            build_media_shard(store, "eval", 0, PLANNED, Unpaced(other), FetchPolicy(threads=1, wait_s=0.0))

    fetcher.before = interfere
    with pytest.raises(Conflict):
        build(store, fetcher, FetchPolicy(threads=1, wait_s=0.0))
    assert build(store, fetcher).summary["fetched"] == 6
    assert len({row.key for row in rows(store)}) == 6


def test_bytes_that_another_job_removed_are_fetched_again_and_never_committed_as_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = ScriptedFetcher()
    put = Spool.put

    def put_then_lose(self: Spool, row, media) -> None:
        put(self, row, media)
        if row.position == 2:
            self.storage.remove("spool/eval/00000/00002.tar")

    with monkeypatch.context() as patch:
        patch.setattr(Spool, "put", put_then_lose)
        with pytest.raises(StorageError, match="removed the bytes"):
            build(store, fetcher)
    assert read_ledger(store, "eval", 0) is None
    assert build(store, fetcher).summary["fetched"] == 6
    assert fetcher.asked == {**dict.fromkeys(KEYS, 1), KEYS[2]: 2}


def test_another_plan_for_the_same_shard_is_refused(store: Store) -> None:
    build(store, ScriptedFetcher())
    with pytest.raises(StoreError, match="other clips"):
        build_media_shard(store, "eval", 0, PLANNED[::-1], Unpaced(ScriptedFetcher()), NO_WAIT)


def test_clips_that_were_removed_on_request_are_never_asked_for(store: Store) -> None:
    store.add_forgotten([KEYS[1], KEYS[3]])
    fetcher = ScriptedFetcher()
    assert build(store, fetcher).summary["failed"] == {"gone": 2}
    assert sorted(fetcher.asked) == sorted(set(KEYS) - {KEYS[1], KEYS[3]})
    build(store, fetcher, FetchPolicy(threads=3, wait_s=0.0, retry=frozenset({Cause.GONE})))
    assert sorted(fetcher.asked) == sorted(set(KEYS) - {KEYS[1], KEYS[3]})
    assert rows(store)[1].words == "removed on request"


def test_only_chosen_clips_are_tried_again(store: Store) -> None:
    gone = FetchFailure(Cause.GONE, "HTTP status 404")
    fetcher = ScriptedFetcher({key: [gone] for key in KEYS[:3]})
    build(store, fetcher)
    policy = FetchPolicy(threads=3, wait_s=0.0, retry=frozenset({Cause.GONE}))
    found = build_media_shard(store, "eval", 0, PLANNED, Unpaced(fetcher), policy, only=frozenset({1, 5}), now=Clock())
    assert found.tried == 1 and fetcher.asked == {key: 1 + (key == KEYS[1]) for key in KEYS}


def test_a_clip_that_takes_its_reader_down_is_tried_once_more_alone_and_then_crashed(store: Store) -> None:
    crash = FetchFailure(Cause.CRASHED, "the cut process ended with signal 11")
    again = FetchFailure(Cause.UNREACHABLE, "time-out")
    fetcher = ScriptedFetcher({KEYS[0]: [crash], KEYS[1]: [crash, b"media"], KEYS[2]: [again, b"media"]})
    policy = FetchPolicy(threads=3, wait_s=1000.0)
    clock = Clock()
    assert not build(store, fetcher, policy, clock).committed  # it is tried again at once, before anything is committed
    under_way: list[str] = []
    most = 0

    def before(segment) -> None:
        nonlocal most
        under_way.append(segment.key)
        threading.Event().wait(0.05)
        suspects = {KEYS[0], KEYS[1]} & set(under_way)
        most = max(most, len(under_way) if suspects else 0)
        under_way.remove(segment.key)

    fetcher.before = before
    clock.time += timedelta(seconds=400)
    assert build(store, fetcher, policy, clock).committed
    assert most == 1
    assert [(row.status, row.cause, row.attempts) for row in rows(store)[:3]] == [
        ("failed", "crashed", 2),
        ("fetched", None, 2),
        ("fetched", None, 2),
    ]
    assert build(store, fetcher, policy, clock).tried == 0
    retried = FetchPolicy(threads=3, wait_s=0.0, retry=frozenset({Cause.CRASHED}))
    fetcher.script[KEYS[0]] = [b"media"]
    build(store, fetcher, retried, clock)
    assert rows(store)[0].status == "fetched" and fetcher.asked[KEYS[0]] == 3


def test_what_the_disk_has_no_room_for_is_not_asked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher, full = ScriptedFetcher(), shutil.disk_usage(store.storage.root)._replace(free=300_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(
            StorageError, match="300,000 bytes are free, 786,432 are wanted .*: No space left on device"
        ):
            build(store, fetcher)
    assert fetcher.asked == {}
    report = build(store, fetcher)
    assert (report.tried, report.traffic) == (6, sum(len(b"media of " + key.encode()) for key in KEYS))


def test_an_error_in_a_shard_leaves_its_other_clips_alone(store: Store) -> None:
    fetcher = ScriptedFetcher({KEYS[0]: [ZeroDivisionError("ours")]})
    fetcher.before = lambda segment: threading.Event().wait(0.2)
    with pytest.raises(ZeroDivisionError):
        build(store, fetcher, FetchPolicy(threads=1, wait_s=0.0))
    assert fetcher.asked.total() <= 2


def test_a_failures_cost_is_in_the_ledger(store: Store) -> None:
    failure = FetchFailure(Cause.GONE, "gone")
    failure.traffic, failure.requests = 7000, 3
    build(store, ScriptedFetcher({KEYS[0]: [failure]}))
    assert (rows(store)[0].traffic, rows(store)[0].requests) == (7000, 3)
