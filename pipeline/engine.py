"""The Ray loop: which shard tasks run when, what happens when one is lost, and the account at the end.

The work itself is in `media_shard.py` and `column_shard.py`, which know no Ray. A shard goes through two tasks: fetch
(threads that wait for the network, no CPU of Ray's) and columns (one CPU per decode process). Ray repeats a task whose
worker or node was lost, without limit; an error of the store or the encoder is repeated here with growing pauses;
anything else is our bug and ends the job.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from pipeline.child_process import ChildUnavailable
from pipeline.column_shard import EncoderUnavailable
from pipeline.columns import Column
from pipeline.encoder_pool import EncoderPool
from pipeline.failures import Cause
from pipeline.gatekeeper_actor import gatekeeper
from pipeline.job_metrics import IngestMetrics
from pipeline.media_shard import MediaReport
from pipeline.media_source import MediaGone
from pipeline.options import IngestOptions
from pipeline.progress import ProgressDisplay
from pipeline.selection import Selection
from pipeline.shard_tasks import column_task, fetch_task, job_context
from pipeline.splits import Split
from pipeline.summary import EXIT_INTERNAL, EXIT_INTERRUPTED, Summary, interrupt_on_sigterm, summarise
from pipeline.tally import TallyActor
from pipeline.worklist import ShardState, survey
from stores.layout import Store
from stores.ledger import FAILED, FETCHED, PENDING
from stores.storage import StorageError

logger = logging.getLogger(__name__)

POLL_S = 0.5
METRICS_EVERY_S = 5.0
TRIES_OF_A_SHARD = 8  # after errors of the store or the encoder; lost workers and nodes are not counted
LONGEST_PAUSE_S = 60.0
LONGEST_HOLD_S = 3600.0
LONGEST_GOODBYE_S = 5.0  # of tasks that were killed; Ray takes an error for nobody's after as long
_PASSING = (StorageError, EncoderUnavailable, ChildUnavailable, MemoryError)


class IngestFailed(Exception):  # noqa: N818 - the end of a job, not an error among others
    """The job cannot go on: a bug of ours, or a store or encoder that stays out of reach. The words name the shard."""


@dataclass(frozen=True, eq=False)
class _Step:
    """A task to be submitted once it is due; of those that are, the first in plan order goes first."""

    due: float  # time.monotonic()
    kind: str  # fetch | columns
    state: ShardState
    tries: int = 0


class IngestRun:
    """One run over a store's splits.

    Args:
        again: statuses of clips that are computed again though nothing has changed; None for what the options say.
        fetch: whether clips are fetched; else only columns are made, of what is there.
    """

    def __init__(
        self,
        options: IngestOptions,
        store: Store,
        splits: Sequence[Split],
        columns: tuple[Column, ...],
        console: Console,
        again: frozenset[str] | None = None,
        fetch: bool = True,
    ) -> None:
        self.options, self.store, self.columns, self.console = options, store, columns, console
        self.splits = {split.name: split for split in splits}
        self.context = job_context(options, columns, options.retry_statuses if again is None else again)
        self._order = {split.name: i for i, split in enumerate(splits)}
        self._fetches = fetch and options.kind != "none"
        self._chosen = {split.name: options.selection.shards(split.plan) for split in splits}
        self._check_keys(options.selection)
        self._hold_until = 0.0  # no fetch is submitted before: a source asked for a pause
        self._ready: dict[str, list[_Step]] = {"fetch": [], "columns": []}
        self._running: dict[Any, _Step] = {}
        self._keeper: Any = None
        self._metrics: Any = None
        self._shown_at = 0.0
        self._encoders: dict[str, EncoderPool] = {}
        self._totals = Summary()
        self._states: list[ShardState] = []

    def _check_keys(self, selection: Selection) -> None:
        unplanned = selection.unplanned([split.plan for split in self.splits.values()])
        if not unplanned:
            return
        few, of = ", ".join(sorted(unplanned)[:3]), len(selection.keys or ())
        words = f"--retry-keys: {len(unplanned)} of its {of} keys are planned in no split of this run, as {few}"
        if len(unplanned) == of:
            raise ValueError(words)
        logger.warning(words)

    def look(self, shards: Collection[int] | None = None) -> bool:
        """Reads what the store has; returns whether anything is left to do. Needs no Ray.

        Args:
            shards: only these, of every split; None for all.
        """
        found = survey(self.store, list(self.splits.values()), self.columns)
        self._states = [state for state in found if shards is None or state.shard in shards]
        if not self._fetches:  # what has no media yet is not this run's
            self._states = [state for state in self._states if state.ledger is not None]
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
            forgotten = self.store.forgotten()
            self._work(self._states)
            if self.store.forgotten() != forgotten:  # by somebody else, who has changed ledgers and manifests
                here = {(state.split, state.shard) for state in self._states}
                found = survey(self.store, list(self.splits.values()), self.columns)
                self._states = [state for state in found if (state.split, state.shard) in here]
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
        due = state.fetch_due(now, self._retried(state)) if self._fetches else None
        if due is not None and (due - now).total_seconds() <= self.options.wait:
            self._push("fetch", state, (due - now).total_seconds())
        elif self._to_compute(state):
            self._push("columns", state)

    def _retried(self, state: ShardState) -> frozenset[Cause]:
        """The causes of failed clips that this shard tries again."""
        chosen = self._chosen[state.split]
        return self.context.policy.retry if chosen is None or state.shard in chosen else frozenset()

    def _to_fetch(self, state: ShardState) -> int:
        """Clips of the shard that this run may ask for."""
        if state.ledger is None:
            return state.planned
        failed = sum(state.ledger[FAILED].get(cause, 0) for cause in self._retried(state))
        return failed + sum(state.ledger[PENDING].values())

    def _to_compute(self, state: ShardState) -> bool:
        """Whether a column of the shard is not up to date, or has clips that are tried again."""
        chosen = self._chosen[state.split]
        again = state.again(self.columns, self.context.again) and (chosen is None or state.shard in chosen)
        return bool(state.stale(self.columns)) or (state.ledger is not None and again)

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
        self._metrics = IngestMetrics(self.store.storage)
        self._keeper = gatekeeper() if self._fetches and self.options.kind != "dir" else None
        fetches = sum(self._to_fetch(state) for state in states) if self._fetches else 0
        decodes = sum(
            state.planned if state.ledger is None or self._to_compute(state) else self._to_fetch(state)
            for state in states
        )
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
                counts = ray.get(tally.read.remote())
                display.update(counts, self._note())
                self._show_metrics(counts)
            self._show_metrics(ray.get(tally.read.remote()), at_once=True)

    def _show_metrics(self, counts: Mapping[str, int], at_once: bool = False) -> None:
        if not at_once and time.monotonic() < self._shown_at + METRICS_EVERY_S:
            return
        self._shown_at = time.monotonic()
        self._metrics.stand(self._states, self.columns)
        self._metrics.tried(sum(counts.get(status, 0) for status in (FETCHED, FAILED, PENDING)))
        running = Counter(step.kind for step in self._running.values())
        breakers = {} if self._keeper is None else ray.get(self._keeper.states.remote())
        ours = {name: state for name, state in breakers.items() if name in self.context.limits}
        self._metrics.under_way({kind: running[kind] for kind in self._ready}, ours)

    def _submit(self, kind: str, tally: Any) -> None:
        under_way = sum(step.kind == kind for step in self._running.values())
        while under_way < self._window(kind) and (step := self._pop(kind)) is not None:
            state, split = step.state, self.splits[step.state.split]
            segments = split.segments(state.shard)
            only = self.options.selection.positions(segments)
            reference: Any
            if kind == "fetch":
                arguments: tuple[Any, ...] = (self._keeper, tally)
                reference = fetch_task.remote(self.context, split.name, state.shard, segments, only, *arguments)
            else:
                arguments = (segments, only, state.labels, self._start_encoders(), tally)
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
            abandon(list(self._running))
            raise IngestFailed(f"{step.kind} of shard {step.state.shard} of {step.state.split}: {error}") from error
        for stage, seconds in report.seconds.items():
            self._totals.seconds[stage] += seconds
        if isinstance(report, MediaReport):
            self._after_fetch(step.state, report)
        else:
            self._totals.decoded += report.decoded
            self._metrics.computed(report)
            step.state.manifests.update(report.summaries)
            step.state.lost -= report.summaries.keys()

    def _after_fetch(self, state: ShardState, report: MediaReport) -> None:
        self._totals.tried += report.tried
        self._totals.traffic += report.traffic
        self._metrics.fetched(report, state.ledger, state.planned)
        waiting = report.summary["next_attempt"]
        if report.shut_s:
            self._hold_until = max(self._hold_until, time.monotonic() + min(report.shut_s, LONGEST_HOLD_S))
        if not report.committed:
            waits = [report.shut_s] if report.shut_s else []
            if waiting is not None:
                waits.append((datetime.fromisoformat(waiting) - datetime.now(UTC)).total_seconds())
            self._push("fetch", state, min(waits, default=0.0))
            return
        state.ledger = report.summary
        if self._to_compute(state):
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
        abandon(list(self._running))
        if isinstance(error.cause, _PASSING):
            words = f"{error.cause} ({TRIES_OF_A_SHARD} tries); the same command goes on from here"
            raise IngestFailed(f"{where}: {words}") from error
        raise IngestFailed(f"{where}: {error}") from error

    def _note(self) -> str:
        waiting = [step.due for steps in self._ready.values() for step in steps if step.due > time.monotonic()]
        text = f"{len(self._running)} shards under way, {sum(map(len, self._ready.values()))} to go"
        return text + (f", next retry in {min(waiting) - time.monotonic():.0f} s" if waiting else "")


def abandon(references: Sequence[Any]) -> None:
    """Kills tasks whose outcome does not matter any more.

    Each is asked for its error: Ray writes those that nobody has asked for to the error stream, with their tracebacks,
    below the one line that says what to do.
    """
    for reference in references:
        ray.cancel(reference, force=True)
    if references:
        ended, _ = ray.wait(list(references), num_returns=len(references), timeout=LONGEST_GOODBYE_S)
        for reference in ended:
            with suppress(RayError):
                ray.get(reference)


def run_to_end(name: str, run: IngestRun, work: bool, start: Callable[[], object]) -> Summary | int:
    """Starts Ray where there is work, runs, and says on the error stream what kept it from ending.

    Args:
        name: the entry's, before its words.
        work: what `IngestRun.look` gave.
        start: `ray.init`.

    Returns:
        the account, or the exit code.
    """
    try:
        if work:  # a finished store is told about at once, without starting a cluster
            start()
            interrupt_on_sigterm()
    except (ConnectionError, TimeoutError, RuntimeError) as error:
        print(f"{name}: Ray cannot be reached: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    except (KeyboardInterrupt, SystemExit):  # while it starts, Ray makes an exit of a SIGTERM
        print(f"{name}: stopped before anything was done", file=sys.stderr)
        return EXIT_INTERRUPTED
    try:
        return run.run()
    except IngestFailed as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_INTERNAL
    except KeyboardInterrupt:
        print(f"{name}: stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
