"""One media shard: fetch what is due, keep every outcome in the spool, commit tar and ledger.

Plain functions that take their store and fetcher as arguments and know no Ray. A call may be cut off anywhere: the next
one starts from the ledger and the spool and asks the source for nothing that either of them holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.clip import FetchedClip
from pipeline.cut_process import CutError
from pipeline.failures import POLICIES, Cause, FetchFailure, next_try_s
from pipeline.permits import Shut, Source, Stopped
from pipeline.segments import Segment
from stores.forget import forgotten_row
from stores.layout import Store, StoreError
from stores.ledger import (
    FAILED,
    FETCHED,
    PENDING,
    Ledger,
    LedgerRow,
    commit_ledger,
    ledger_summary,
    media_json,
    read_ledger,
)
from stores.shards import write_media_tar
from stores.spool import Spool
from stores.storage import ABSENT, StorageError

Progress = Callable[..., None]

LONGEST_WAIT_S = 86_400.0
ROOM_BYTES = 256 << 10  # for what each thread fetches: most clips of ten seconds


@dataclass(frozen=True)
class FetchPolicy:
    """How a shard's fetches go.

    Attributes:
        keep_media: the bytes go into a media tar; else they stay in the spool until the columns are made.
        threads: clips fetched at once.
        retry: causes of failed clips that are tried again.
        retry_delay_s: wait after a first failure that may pass; grows with each further one. None: as
            `pipeline.failures.POLICIES` says.
        wait_s: a clip that is due again within this time holds the shard's commit back.
        keep_spool: leave the spool after the commit, because columns will be made from it.
    """

    keep_media: bool = True
    keep_spool: bool = False
    threads: int = 8
    retry: frozenset[Cause] = frozenset()
    retry_delay_s: float | None = None
    wait_s: float = 300.0


@dataclass(frozen=True)
class MediaReport:
    """What one call did.

    Attributes:
        committed: whether the ledger holds all of it; else the shard waits for `summary["next_attempt"]`.
        summary: of the ledger as it is or will be, see `stores.ledger.ledger_summary`.
        tried: clips that the source was asked for in this call.
        traffic: media bytes that came over the network for them.
        shut_s: seconds for which no egress may be used; 0 where one may.
        seconds: time spent, by stage.
    """

    split: str
    shard: int
    committed: bool
    summary: dict[str, Any]
    tried: int
    shut_s: float = 0.0
    traffic: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def build_media_shard(
    store: Store,
    split: str,
    shard: int,
    segments: Sequence[Segment],
    source: Source,
    policy: FetchPolicy,
    *,
    only: Set[int] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Progress = lambda **_: None,
) -> MediaReport:
    """Fetches what is due of a shard and commits it.

    Args:
        segments: the shard's planned segments, in order.
        source: where from, and how politely.
        only: positions of the failed clips that `policy.retry` is about; None for all.
        now: the clock, UTC.
        progress: called with counts (`fetched=1`, `traffic=…`) as clips end.

    Raises:
        StorageError: the store failed or another job committed first; what was fetched is in the spool.
        Exception: whatever a fetcher raises beside FetchFailure is a bug of ours and fails the shard.
    """
    began = now()
    spool = Spool(store, split, shard)
    ledger = read_ledger(store, split, shard)
    forgotten = store.forgotten()
    rows = _rows_so_far(segments, ledger, spool, forgotten)
    chosen = range(len(rows)) if only is None else only
    due = [row for row in rows if row.is_due(began) or (row.position in chosen and _is_retried(row, ledger, policy))]
    due = [row for row in due if row.key not in forgotten]
    # Throttled clips go last: one address that never answers must not keep the others from their turn.
    due.sort(key=lambda row: (row.cause == Cause.THROTTLED, row.attempts, row.position))
    tried, traffic, shut_s = 0, 0, 0.0
    for row, wait_s in _fetch_all(due, segments, source, spool, policy, now):
        if row.attempts > rows[row.position].attempts:
            tried, traffic = tried + 1, traffic + row.traffic - rows[row.position].traffic
            progress(**{row.status: 1})
        rows[row.position], shut_s = row, max(shut_s, wait_s)
    seconds = {"fetch": (now() - began).total_seconds()}
    if shut_s or _comes_back_soon(rows, now(), policy):
        summary = ledger_summary(split, shard, rows, ledger.tars if ledger else {})
        return MediaReport(split, shard, False, summary, tried, shut_s, traffic, seconds)
    began = now()
    summary = _commit(store, split, shard, rows, ledger, spool, policy)
    seconds["media"] = (now() - began).total_seconds()
    return MediaReport(split, shard, True, summary, tried, traffic=traffic, seconds=seconds)


def _rows_so_far(
    segments: Sequence[Segment], ledger: Ledger | None, spool: Spool, forgotten: Set[str]
) -> list[LedgerRow]:
    """The ledger's rows, overruled by what the spool knows since; untried rows for the rest. Clips that were removed
    on request are as good as gone."""
    rows = list(ledger.rows) if ledger else [LedgerRow(i, segment.key) for i, segment in enumerate(segments)]
    if [row.key for row in rows] != [segment.key for segment in segments]:
        raise StoreError(f"the plan of shard {spool.folder} names other clips than its ledger: use another split name")
    for position, row in spool.rows().items():
        if position < len(rows) and row.key == rows[position].key and row.attempts > rows[position].attempts:
            rows[position] = row
    return [forgotten_row(row) if row.key in forgotten and row.tar is None else row for row in rows]


def _is_retried(row: LedgerRow, ledger: Ledger | None, policy: FetchPolicy) -> bool:
    """A failed clip of a cause that `--retry` names, unless the spool shows that this was done already."""
    if row.status != FAILED or ledger is None or row.cause not in policy.retry:
        return False
    return ledger.rows[row.position].attempts == row.attempts


def _fetch_all(
    due: Sequence[LedgerRow],
    segments: Sequence[Segment],
    source: Source,
    spool: Spool,
    policy: FetchPolicy,
    now: Callable[[], datetime],
) -> Iterator[tuple[LedgerRow, float]]:
    """Yields each due row's outcome as it comes, and for how long no egress may be used.

    What was fetched is in the spool by then, if anything would be lost.
    """
    stop = threading.Event()

    def fetch_one(row: LedgerRow) -> tuple[LedgerRow, float]:
        spool.storage.require_room(policy.threads * ROOM_BYTES)  # what cannot be kept is not asked for
        try:
            clip = source.fetch(segments[row.position], stop)
        except Stopped:
            return row, 0.0
        except Shut as shut:
            return replace(row, not_before=now() + timedelta(seconds=shut.wait_s)), shut.wait_s
        except FetchFailure as failure:
            outcome, data = _after_failure(row, failure, policy, now()), None
        except CutError as error:
            raise CutError(f"{row.key}: {error}") from error
        else:
            outcome, data = _after_fetch(row, clip, now()), clip.data
        if data is not None or outcome.status != FETCHED:  # a file that stays where it is costs nothing to find again
            spool.put(outcome, data)
        return outcome, 0.0

    # A clip that took down who cut it is tried again when no other is under way, as a decoder's suspects are.
    suspects = [row for row in due if row.cause == Cause.CRASHED]
    others = [row for row in due if row.cause != Cause.CRASHED]
    for rows, threads in ((others, policy.threads), (suspects, 1)):
        with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(fetch_one, row) for row in rows]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BaseException:  # a bug, a storage error or an abandoned loop: nobody is asked for more
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _after_fetch(row: LedgerRow, clip: FetchedClip, at: datetime) -> LedgerRow:
    return replace(
        row,
        status=FETCHED,
        cause=None,
        words=None,
        attempts=row.attempts + 1,
        rounds=0,
        first_attempt=row.first_attempt or at,
        last_attempt=at,
        not_before=None,
        origin=clip.origin,
        extension=clip.extension,
        media_sha256=clip.sha256,
        media_bytes=clip.size,
        media_start_ms=clip.media_start_ms,
        traffic=row.traffic + clip.traffic,
        requests=row.requests + clip.requests,
    )


def _after_failure(row: LedgerRow, failure: FetchFailure, policy: FetchPolicy, at: datetime) -> LedgerRow:
    """The ledger row of a clip that was not to be had. Raises the failure itself where it is a bug of ours."""
    if POLICIES[failure.cause].loud:
        raise failure
    counts = failure.cause != Cause.THROTTLED  # being told to slow down is nobody's fault and never adds up to a loss
    rounds = (0 if row.status == FAILED else row.rounds) + counts
    tries = rounds if counts else 1 + (row.attempts if row.cause == Cause.THROTTLED else 0)
    wait_s = _wait_s(failure, tries, policy)
    return replace(
        row,
        status=FAILED if wait_s is None else PENDING,
        cause=str(failure.cause),
        words=failure.words,
        attempts=row.attempts + 1,
        rounds=rounds,
        first_attempt=row.first_attempt or at,
        last_attempt=at,
        not_before=None if wait_s is None else at + timedelta(seconds=wait_s),
        traffic=row.traffic + failure.traffic,
        requests=row.requests + failure.requests,
    )


def _wait_s(failure: FetchFailure, tries: int, policy: FetchPolicy) -> float | None:
    """Seconds until the next try, at least what the source asked for; None when there is none."""
    if failure.cause == Cause.THROTTLED and failure.retry_after_s is not None:
        return failure.retry_after_s  # who keeps the egresses knows when one of them may be used again
    wait_s = next_try_s(failure.cause, tries, failure.retry_after_s)
    if wait_s is None or policy.retry_delay_s is None:
        return wait_s
    growth = POLICIES[failure.cause].growth
    return max(failure.retry_after_s or 0.0, min(LONGEST_WAIT_S, policy.retry_delay_s * growth ** (tries - 1)))


def _comes_back_soon(rows: Sequence[LedgerRow], at: datetime, policy: FetchPolicy) -> bool:
    horizon = at + timedelta(seconds=policy.wait_s)
    return any(row.is_due(horizon) for row in rows)


def _commit(
    store: Store,
    split: str,
    shard: int,
    rows: list[LedgerRow],
    ledger: Ledger | None,
    spool: Spool,
    policy: FetchPolicy,
) -> dict[str, Any]:
    """Writes the tar of what is new, then the ledger, which is the commit; then empties the spool."""
    tars = dict(ledger.tars) if ledger else {}
    if policy.keep_media:
        rows, tars = _write_tar(store, split, shard, rows, ledger, tars, spool)
    if ledger and list(ledger.rows) == rows:
        summary = ledger_summary(split, shard, rows, tars)
    else:
        summary = commit_ledger(store, split, shard, rows, tars, ledger.version if ledger else ABSENT)
    if not policy.keep_spool:
        spool.remove()
    return summary


def _write_tar(
    store: Store,
    split: str,
    shard: int,
    rows: list[LedgerRow],
    ledger: Ledger | None,
    tars: dict[str, Any],
    spool: Spool,
) -> tuple[list[LedgerRow], dict[str, Any]]:
    """Moves fetched clips from the spool into a further media tar; rows then name it."""
    held = spool.positions()
    new = []
    for row in rows:
        if row.status == FETCHED and row.tar is None:
            if row.position in held:
                new.append(row)
            elif ledger is None or ledger.rows[row.position].status != FETCHED:
                raise StorageError(
                    f"{spool.folder}: another job removed the bytes of {row.key}; they are fetched again"
                )
            # else: fetched by an earlier run with --media drop; its bytes are nowhere any more
    if not new:
        return rows, tars

    def members() -> Iterator[tuple[str, bytes]]:
        for row in new:
            yield f"{row.key}.json", media_json(row)
            yield f"{row.key}.{row.extension}", spool.media(row.position)

    with store.storage.scratch_file() as scratch:
        facts, offsets = write_media_tar(scratch, members())
        path = store.media_tar_name(split, shard, facts.digest8)
        store.storage.publish_file(scratch, path)
    name = path.rsplit("/", 1)[1]
    placed = list(rows)
    for row in new:
        placed[row.position] = replace(row, tar=name, offset=offsets[f"{row.key}.{row.extension}"])
    return placed, {**tars, name: {"size": facts.size, "sha256": facts.sha256}}
