"""The account of an ingest: what was planned, what became of it, what it took; for screen, log and exit code."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.columns import Column
from pipeline.worklist import ShardState
from stores.ledger import FAILED, FETCHED, PENDING
from stores.manifest import CRASHED, OK, UNDECODABLE
from stores.text import size_text

EXIT_OK, EXIT_INCOMPLETE, EXIT_USAGE, EXIT_INTERNAL, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM an interrupt: what is done is committed, and the same command goes on.

    To be called again once Ray has started, which puts a handler of its own there that shows a stack.
    """
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@dataclass
class Summary:
    """Totals over all shards of a run's splits.

    `columns` holds ok, undecodable and crashed clips by column; `stale` the column shards that are not up to date;
    `lost_media` counts media tars that are not there whole; `seconds` are summed over shards working side by side,
    `wall_s` is the run's own.
    """

    planned: int = 0
    fetched: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)
    columns: dict[str, Counter[str]] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    media_bytes: int = 0
    lost_media: int = 0
    traffic: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tried: int = 0
    decoded: int = 0
    wall_s: float = 0.0
    next_attempt: str | None = None

    def check(self) -> None:
        """The invariants of DESIGN section 4. Raises AssertionError naming the one that is broken: a bug of ours."""
        if self.planned != self.fetched + self.failed.total() + self.pending.total():
            raise AssertionError(f"planned {self.planned} != fetched + failed + pending: {self}")
        for column, counts in self.columns.items():
            if not self.stale[column] and self.fetched != counts.total():
                raise AssertionError(f"{column}: fetched {self.fetched} != ok + undecodable + crashed: {counts}")

    @property
    def lost(self) -> int:
        """Clips that will not come without --retry: failed to be fetched, or without a feature in the worst column."""
        bad = [counts[UNDECODABLE] + counts[CRASHED] for counts in self.columns.values()]
        return self.failed.total() + max(bad, default=0)

    def exit_code(self, max_failed_fraction: float) -> int:
        """0 when nothing is pending or stale and no more clips failed than allowed, else 1."""
        return EXIT_INCOMPLETE if self.reasons(max_failed_fraction) else EXIT_OK

    def reasons(self, max_failed_fraction: float) -> list[str]:
        """Why the exit code is 1, a line each; none where it is 0."""
        found = []
        if self.pending.total():
            found.append(f"exit code 1: {self.pending.total()} clips are pending: run the same command later")
        if stale := sum(self.stale.values()):
            found.append(
                f"exit code 1: {stale} column shards are not up to date, `python -m stores plan-rebuild` says why"
            )
        if self.lost_media:
            found.append(
                f"exit code 1: {self.lost_media} media tars are missing or of another size; `python -m stores verify` "
                "names them and says what to do"
            )
        if self.lost > max_failed_fraction * self.planned:
            found.append(
                f"exit code 1: {self.lost} of {self.planned} clips failed or have no feature, --max-failed-fraction is "
                f"{max_failed_fraction:g}; `python -m stores failed` names them"
            )
        return found

    def lines(self) -> list[str]:
        """The account as plain lines."""
        parts = f"fetched {self.fetched} + failed {self.failed.total()} + pending {self.pending.total()}"
        out = [f"planned {self.planned} = {parts}"]
        out += [f"failed  {_by_cause(self.failed)}"] if self.failed else []
        out += [f"pending {_by_cause(self.pending)}; next attempt {self.next_attempt}"] if self.pending else []
        for column, counts in self.columns.items():
            out.append(
                f"{column}: ok {counts[OK]}, undecodable {counts[UNDECODABLE]}, crashed {counts[CRASHED]}"
                + (f", {self.stale[column]} shards not up to date" if self.stale[column] else "")
            )
        if not (self.tried or self.decoded or self.seconds):
            out.append("this run: nothing to do")
            return out
        rate = max(self.tried, self.decoded) / self.wall_s if self.wall_s else 0.0
        out.append(
            f"this run: {self.tried} fetches tried, {self.decoded} clips decoded in {self.wall_s:.1f} s "
            f"({rate:.2f} clips/s); {size_text(self.traffic)} over the network, "
            f"{size_text(self.media_bytes)} of media in the ledgers"
        )
        if self.seconds:
            by_time = sorted(self.seconds.items(), key=lambda item: -item[1])
            stages = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in by_time)
            out.append(f"seconds, summed over shards: {stages}")
        return out


def summarise(states: Sequence[ShardState], columns: Sequence[Column]) -> Summary:
    """Adds up shards' states; what the run itself took is filled in by who ran it."""
    total = Summary(columns={c.name: Counter() for c in columns}, stale={c.name: 0 for c in columns})
    waits = []
    for state in states:
        total.planned += state.planned
        if state.ledger is None:
            total.pending["untried"] += state.planned
        else:
            total.fetched += state.ledger[FETCHED]
            total.failed.update(state.ledger[FAILED])
            total.pending.update(state.ledger[PENDING])
            total.media_bytes += state.ledger["media_bytes"]
            total.lost_media += state.lost_media
            waits.append(state.ledger["next_attempt"])
        for column in state.stale(columns) if state.ledger else columns:
            total.stale[column.name] += 1
        for column in columns:
            if column.name in state.manifests:
                total.columns[column.name].update(state.manifests[column.name]["counts"])
    total.next_attempt = min((wait for wait in waits if wait), default=None)
    return total


def _by_cause(counts: Counter[str]) -> str:
    return ", ".join(f"{cause} {count}" for cause, count in sorted(counts.items()))
