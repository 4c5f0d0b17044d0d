"""A store's status as tables for people: with colours on a terminal, as plain aligned text in a log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stores.status import ColumnStatus, EgressStatus, SplitStatus, StoreStatus, TarCounts
from stores.text import size_text

FLAG_WORDS = {"no_audio": "no sound", "no_video": "no picture", "mute": "mute", "still": "still", "short": "short"}
SPLIT_HEADINGS = ("split", "shards", "clips", "fetched", "failed", "pending", "spool", "media", "garbage")
COLUMN_HEADINGS = ("split", "current", "stale", "missing", "ok", "undecodable", "crashed", "size", "garbage")


def render(status: StoreStatus, uri: str, console: Console, now: datetime | None = None) -> None:
    """Writes the tables to a console."""
    lines = _Lines(console)
    lines.write(f"store {uri}: format {status.format}, {status.shard_size} clips a shard, seed {status.seed}", "bold")
    if not status.splits:
        lines.write("nothing is planned yet")
        return
    lines.write("")
    lines.table(SPLIT_HEADINGS, [_split_row(split) for split in status.splits])
    now = now or datetime.now(UTC)
    lines.notes(note for split in status.splits for note in _split_notes(split, now))
    lines.notes(note for egress in status.egresses for note in _egress_notes(egress, now))
    for column in dict.fromkeys(status.column for status in status.columns):
        rows = [found for found in status.columns if found.column == column]
        lines.write("")
        lines.write(f"{column}: {rows[0].array}", "bold")
        lines.table(COLUMN_HEADINGS, [_column_row(row) for row in rows])
        lines.notes(note for row in rows for note in _column_notes(row))


class _Lines:
    """A console that reads no markup out of what it prints; in a log a wide table stays whole."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def write(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style if self.console.is_terminal else ""), soft_wrap=True)

    def notes(self, notes: Iterable[str]) -> None:
        for note in notes:
            self.write(f"  {note}")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if self.console.is_terminal:
            table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
            for heading in headings:
                table.add_column(heading, justify="left" if heading == "split" else "right", no_wrap=True)
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            self.console.print(table)
            return
        widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            self.write("  ".join([first.strip().ljust(widths[0]), *others]))


def _split_row(split: SplitStatus) -> list[str]:
    return [
        split.split,
        f"{split.committed:,}/{split.shards:,}",
        f"{split.clips:,}",
        f"{split.fetched:,}",
        f"{sum(split.failed.values()):,}",
        f"{sum(split.pending.values()):,}",
        f"{split.spool_clips:,}",
        size_text(split.tars.live_bytes),
        size_text(split.tars.garbage_bytes),
    ]


def _split_notes(split: SplitStatus, now: datetime) -> Iterable[str]:
    if split.failed:
        yield f"{split.split} failed: {_counts(split.failed)}"
    if split.pending:
        yield f"{split.split} pending: {_counts(split.pending)}; next attempt {_when(split.next_attempt, now)}"
    if split.spool_clips:
        yield f"{split.split} spool: clips {split.spool_clips:,}, shards under way {split.spool_shards:,}"
    yield from _tar_notes(split.split, split.tars)


def _egress_notes(egress: EgressStatus, now: datetime) -> Iterable[str]:
    if egress.shut_until is not None and datetime.fromisoformat(egress.shut_until) > now:
        yield f"egress {egress.egress}: its breaker is open until {_when(egress.shut_until, now)}"
    if egress.gap_s:
        yield f"egress {egress.egress}: was throttled, a clip each {egress.gap_s:.3g} s"


def _column_row(column: ColumnStatus) -> list[str]:
    return [
        column.split,
        f"{column.current:,}",
        f"{column.stale:,}",
        f"{column.missing:,}",
        f"{column.ok:,}",
        f"{column.undecodable:,}",
        f"{column.crashed:,}",
        size_text(column.tars.live_bytes),
        size_text(column.tars.garbage_bytes),
    ]


def _column_notes(column: ColumnStatus) -> Iterable[str]:
    flagged = {FLAG_WORDS.get(flag, flag): count for flag, count in column.flags.items() if count}
    if flagged:
        yield f"{column.split} flags: {_counts(flagged)}"
    yield from _tar_notes(column.split, column.tars)


def _tar_notes(split: str, tars: TarCounts) -> Iterable[str]:
    if tars.lost:
        yield f"{split} LOST: {tars.lost:,} committed tars are missing or of another size; `verify` names them"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _when(moment: str | None, now: datetime) -> str:
    if moment is None or datetime.fromisoformat(moment) <= now:
        return "now"
    return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
