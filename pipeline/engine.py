"""The Ray loop: which shard tasks run when, what happens when one is lost, and the account at the end.

The work itself is in `media_shard.py` and `column_shard.py`, which know no Ray. A shard goes through two tasks: fetch
(threads that wait for the network, no CPU of Ray's) and columns (one CPU per decode process). Ray repeats a task whose
worker or node was lost, without limit; an error of the store or the encoder is repeated here with growing pauses;
anything else is our bug and ends the job.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from pipeline.clip import Fetcher, FetchOptions
from pipeline.column_shard import ColumnReport, EncoderUnavailable, build_column_shards
from pipeline.columns import Column
from pipeline.decode_process import DecodeOptions
from pipeline.decoder import Decoder, DecoderUnavailable
from pipeline.egress import Egress
from pipeline.encoder_pool import A_BYTE, EncoderPool
from pipeline.fetch import open_source
from pipeline.gatekeeper_actor import Entry, RayDoor, gatekeeper
from pipeline.media_shard import FetchPolicy, MediaReport, build_media_shard
from pipeline.media_source import MediaGone, MediaSource
from pipeline.options import IngestOptions
from pipeline.permits import Paced, Source, Unpaced
from pipeline.politeness import Limits
from pipeline.progress import ProgressDisplay
from pipeline.segments import Segment
from pipeline.splits import Split
from pipeline.summary import Summary, summarise
from pipeline.tally import TallyActor, TallyClient
from pipeline.worklist import ShardState, survey
from stores.layout import Store
from stores.storage import StorageError

logger = logging.getLogger(__name__)

POLL_S = 0.5
TRIES_OF_A_SHARD = 8  # after errors of the store or the encoder; lost workers and nodes are not counted
LONGEST_PAUSE_S = 60.0
LONGEST_HOLD_S = 3600.0
_PASSING = (StorageError, EncoderUnavailable, DecoderUnavailable, MemoryError)


class IngestFailed(Exception):  # noqa: N818 - the end of a job, not an error among others
    """The job cannot go on: a bug of ours, or a store or encoder that stays out of reach. The words name the shard."""


@dataclass(frozen=True)
class JobContext:
    """What every task of a run needs; small, so it travels with each."""

    store: str
    source: str
    fetch: FetchOptions
    egresses: tuple[Egress, ...]
    limits: Mapping[str, Limits]
    policy: FetchPolicy
    columns: tuple[Column, ...]
    processes: int
    seconds_per_clip: float
    source_is_folder: bool


@functools.lru_cache(maxsize=2)
def _files(source: str, options: FetchOptions) -> Fetcher:
    """One fetcher of a folder per worker process: it keeps the listing."""
    return open_source(source, options)


_sources: dict[tuple[str, str, FetchOptions, tuple[Egress, ...]], Source] = {}


def _source(context: JobContext, keeper: Any) -> Source:
    """One source per worker process: it keeps connections and sessions, for each egress."""
    if context.source_is_folder:
        return Unpaced(_files(context.source, context.fetch))
    key = (context.store, context.source, context.fetch, context.egresses)
    if key not in _sources:
        open_by = {
            egress.name: functools.partial(open_source, context.source, egress.options(context.fetch))
            for egress in context.egresses
        }
        limited = frozenset(name for name, limits in context.limits.items() if limits.requests_per_second)
        _sources[key] = Paced(RayDoor(keeper, Entry(context.store, context.limits)), open_by, limited)
    return _sources[key]


_decoders: dict[tuple[DecodeOptions, int], Decoder] = {}


def _decoder(options: DecodeOptions, processes: int) -> Decoder:
    """The decoder of this worker process, kept from shard to shard: its processes take seconds to start."""
    if (options, processes) not in _decoders:
        while _decoders:
            _decoders.popitem()[1].close()
        _decoders[options, processes] = Decoder(options, processes)
    return _decoders[options, processes]


@ray.remote(num_cpus=0, memory=A_BYTE, max_retries=-1, scheduling_strategy="SPREAD")
def fetch_task(
    context: JobContext, split: str, shard: int, segments: list[Segment], keeper: Any, tally: Any
) -> MediaReport:
    """Runs `build_media_shard` on some node."""
    progress = TallyClient(tally)
    store, source = Store.open(context.store), _source(context, keeper)
    try:
        return build_media_shard(store, split, shard, segments, source, context.policy, progress=progress)
    finally:
        progress.flush()


@ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
def column_task(
    context: JobContext,
    split: str,
    shard: int,
    segments: list[Segment],
    labels: str,
    encoders: dict[str, EncoderPool],
    tally: Any,
) -> ColumnReport:
    """Runs `build_column_shards` on some node."""
    progress = TallyClient(tally)
    store = Store.open(context.store)
    files = _files(context.source, replace(context.fetch, keep=False)) if context.source_is_folder else None
    try:
        return build_column_shards(
            store,
            split,
            shard,
            segments,
            context.columns,
            MediaSource(store, split, shard, files),
            lambda options: _decoder(replace(options, seconds_per_clip=context.seconds_per_clip), context.processes),
            encoders,
            labels=labels,
            noted={"torch": version("torch")},
            progress=progress,
        )
    finally:
        progress.flush()


@dataclass(frozen=True, eq=False)
class _Step:
    """A task to be submitted once it is due; of those that are, the first in plan order goes first."""

    due: float  # time.monotonic()
    kind: str  # fetch | columns
    state: ShardState
    tries: int = 0


class IngestRun:
    """One run over a store's splits."""

    def __init__(
        self,
        options: IngestOptions,
        store: Store,
        splits: Sequence[Split],
        columns: tuple[Column, ...],
        console: Console,
    ) -> None:
        self.options, self.store, self.columns, self.console = options, store, columns, console
        self.splits = {split.name: split for split in splits}
        self.context = _context(options, columns)
        self._order = {split.name: i for i, split in enumerate(splits)}
        self._hold_until = 0.0  # no fetch is submitted before: a source asked for a pause
        self._ready: dict[str, list[_Step]] = {"fetch": [], "columns": []}
        self._running: dict[Any, _Step] = {}
        self._keeper: Any = None
        self._encoders: dict[str, EncoderPool] = {}
        self._totals = Summary()
        self._states: list[ShardState] = []

    def look(self) -> bool:
        """Reads what the store has; returns whether anything is left to do. Needs no Ray."""
        self._states = survey(self.store, list(self.splits.values()), self.columns)
        for state in self._states:
            self._enqueue(state)
        return any(self._ready.values())

    def run(self) -> Summary:
        """Does what `look` found and returns the account. Ray must be running where it found anything.

        Raises:
            IngestFailed: the job cannot go on; what was done is committed or in the spool.
        """
        began = time.monotonic()
        if any(self._ready.values()):
            widest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
            if self.columns and self.options.cpus_per_shard > widest:
                raise IngestFailed(
                    f"--cpus-per-shard {self.options.cpus_per_shard}: no node has more than {widest:g} CPUs"
                )
            self._work(self._states)
        total = summarise(self._states, self.columns)
        total.seconds, total.tried, total.decoded = self._totals.seconds, self._totals.tried, self._totals.decoded
        total.traffic, total.wall_s = self._totals.traffic, time.monotonic() - began
        try:
            total.check()
        except AssertionError as error:
            raise IngestFailed(f"the account does not add up, which is a bug: {error}") from error
        return total

    # ---------------------------------------------------------------- queueing

    def _enqueue(self, state: ShardState) -> None:
        """Queues what a shard needs next: its media before its columns."""
        now = datetime.now(UTC)
        due = state.fetch_due(now, self.context.policy.retry)
        if due is not None and (due - now).total_seconds() <= self.options.wait:
            self._push("fetch", state, (due - now).total_seconds())
        elif state.stale(self.columns):
            self._push("columns", state)

    def _push(self, kind: str, state: ShardState, delay: float = 0.0, tries: int = 0) -> None:
        due = time.monotonic() + max(0.0, delay)
        self._ready[kind].append(_Step(due, kind, state, tries))

    def _pop(self, kind: str) -> _Step | None:
        """The step to submit next: a shard that was begun goes before fresh ones, so that it can be committed."""
        now = time.monotonic()
        if kind == "fetch" and now < self._hold_until:
            return None
        due = [step for step in self._ready[kind] if step.due <= now]
        if not due:
            return None
        first = min(due, key=lambda step: (self._order[step.state.split], step.state.shard))
        self._ready[kind].remove(first)
        return first

    def _window(self, kind: str) -> int:
        """Tasks of a kind that may be under way: enough to keep the cluster busy, as it is now."""
        if kind == "columns":
            return max(1, int(ray.cluster_resources().get("CPU", 1) // self.options.cpus_per_shard)) + 1
        if self.options.fetch_shards is not None:
            return self.options.fetch_shards
        if self.options.per_hour:  # more would only leave more shards unfinished
            return len(self.context.egresses)
        return 2 * sum(node["Alive"] for node in ray.nodes())

    # ---------------------------------------------------------------- the loop

    def _work(self, states: Sequence[ShardState]) -> None:
        tally = TallyActor.remote()
        self._keeper = None if self.context.source_is_folder else gatekeeper()
        fetches = sum(state.planned for state in states if state.ledger is None)
        decodes = sum(state.planned for state in states if state.ledger is None or state.stale(self.columns))
        with ProgressDisplay(self.console, fetches, decodes if self.columns else 0) as display:
            while self._running or any(self._ready.values()):
                for kind in self._ready:
                    self._submit(kind, tally)
                if self._running:
                    done, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_S)
                    for reference in done:
                        self._collect(reference)
                else:
                    time.sleep(POLL_S)
                display.update(ray.get(tally.read.remote()), self._note())

    def _submit(self, kind: str, tally: Any) -> None:
        under_way = sum(step.kind == kind for step in self._running.values())
        while under_way < self._window(kind) and (step := self._pop(kind)) is not None:
            state, split = step.state, self.splits[step.state.split]
            segments = split.segments(state.shard)
            reference: Any
            if kind == "fetch":
                reference = fetch_task.remote(self.context, split.name, state.shard, segments, self._keeper, tally)
            else:
                arguments = (segments, state.labels, self._start_encoders(), tally)
                task = column_task.options(num_cpus=self.options.cpus_per_shard)
                reference = task.remote(self.context, split.name, state.shard, *arguments)
            self._running[reference] = step
            under_way += 1

    def _start_encoders(self) -> dict[str, EncoderPool]:
        """The encoder actors, started when the first shard needs them."""
        for column in self.columns:
            if column.encoder and column.name not in self._encoders:
                pools = sum(other.encoder is not None for other in self.columns)
                try:
                    pool = EncoderPool.start(column, self.options.encoder_actors, self.options.encoder_gpus, pools)
                except ValueError as error:
                    raise IngestFailed(str(error)) from error
                self._encoders[column.name] = pool
        return self._encoders

    def _collect(self, reference: Any) -> None:
        step = self._running.pop(reference)
        try:
            report = ray.get(reference)
        except RayTaskError as error:
            self._after_error(step, error)
            return
        except RayError as error:
            raise IngestFailed(f"{step.kind} of shard {step.state.shard} of {step.state.split}: {error}") from error
        for stage, seconds in report.seconds.items():
            self._totals.seconds[stage] += seconds
        if isinstance(report, MediaReport):
            self._after_fetch(step.state, report)
        else:
            self._totals.decoded += report.decoded
            step.state.manifests.update(report.summaries)
            step.state.lost -= report.summaries.keys()

    def _after_fetch(self, state: ShardState, report: MediaReport) -> None:
        self._totals.tried += report.tried
        before = state.ledger["traffic"] if state.ledger else 0
        waiting = report.summary["next_attempt"]
        if report.shut_s:
            self._hold_until = max(self._hold_until, time.monotonic() + min(report.shut_s, LONGEST_HOLD_S))
        if not report.committed and waiting is not None:
            delay = (datetime.fromisoformat(waiting) - datetime.now(UTC)).total_seconds()
            self._push("fetch", state, delay)
            return
        self._totals.traffic += report.summary["traffic"] - before
        state.ledger = report.summary
        if state.stale(self.columns):
            self._push("columns", state)

    def _after_error(self, step: _Step, error: RayTaskError) -> None:
        where = f"{step.kind} of shard {step.state.shard} of {step.state.split}"
        if isinstance(error.cause, _PASSING) and step.tries + 1 < TRIES_OF_A_SHARD:
            pause = min(LONGEST_PAUSE_S, 2.0**step.tries)
            logger.warning("%s: %s; again in %.0f s", where, error.cause, pause)
            self._push(step.kind, step.state, pause, step.tries + 1)
            return
        if isinstance(error.cause, MediaGone):
            logger.error("%s: %s; the shard is left as it is", where, error.cause)
            return
        for reference in self._running:
            ray.cancel(reference, force=True)
        raise IngestFailed(f"{where}: {error}") from error

    def _note(self) -> str:
        waiting = [step.due for steps in self._ready.values() for step in steps if step.due > time.monotonic()]
        text = f"{len(self._running)} shards under way, {sum(map(len, self._ready.values()))} to go"
        return text + (f", next retry in {min(waiting) - time.monotonic():.0f} s" if waiting else "")


def _context(options: IngestOptions, columns: tuple[Column, ...]) -> JobContext:
    policy = FetchPolicy(
        keep_media=options.keep_media,
        keep_spool=not options.keep_media and bool(columns),
        threads=options.fetch_threads,
        retry=options.retry_causes,
        retry_delay_s=options.retry_delay,
        wait_s=options.wait,
    )
    fetch = FetchOptions(
        proxy=options.proxy,
        cookie_file=options.cookies,
        keep=options.keep_media,
        read_timeout_s=options.read_timeout,
        deadline_s=options.fetch_deadline,
    )
    return JobContext(
        store=options.store,
        source=options.source,
        fetch=fetch,
        egresses=options.egress_list,
        limits={
            one.name: one.limits(options.per_hour, options.requests_per_second, options.retry_delay)
            for one in options.egress_list
        },
        policy=policy,
        columns=columns,
        processes=options.cpus_per_shard,
        seconds_per_clip=options.seconds_per_clip,
        source_is_folder=options.kind == "dir",
    )
