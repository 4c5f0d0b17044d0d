"""The grammar of one row of a segment list, and, in words, what is wrong with a row that does not follow it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

MAX_SEGMENT_MS = 60_000  # AudioSet's own are at most 10 s; a longer row is a mistake of units, not a clip
MAX_TIME_MS = 2**31 - 1
MAX_LINE_BYTES = 65_536  # all 527 mids in one row take 6 kB
EXAMPLES_PER_REASON = 3

# Seven and six digits: far inside what a float64 holds exactly. RE2 matches these without backtracking.
_ID = "[A-Za-z0-9_-]{1,64}"
_SECONDS = r"[0-9]{1,7}(?:\.[0-9]{1,6})?"
_LABEL = r"[!#-+\--~]+"
_LABELS = f'"{_LABEL}(?:,{_LABEL})*"|{_LABEL}'
ROW = rf"^(?P<ytid>{_ID}), *(?P<start>{_SECONDS}), *(?P<end>{_SECONDS}), *(?P<mids>{_LABELS})[ \t]*\r?\n$"
EXAMPLE = '--4gqARaEJE, 0.000, 10.000, "/m/068hy,/m/0bt9lr"'


class Reason(StrEnum):
    """Why a row is refused."""

    MALFORMED = "malformed"
    BAD_BYTES = "bad_bytes"
    TOO_LONG = "too_long"
    BAD_ID = "bad_id"
    BAD_TIMES = "bad_times"
    UNKNOWN_MID = "unknown_mid"
    REPEATED_MID = "repeated_mid"
    DUPLICATE_KEY = "duplicate_key"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A refused row: its line in the file (from 1), why, and in words what was found and what was expected."""

    line: int
    reason: Reason
    found: str
    expected: str

    @property
    def remedy(self) -> str:
        """What the user can do about it."""
        if self.reason is Reason.UNKNOWN_MID:
            return "Give the class list these labels belong to with --labels, or drop such rows with --skip-bad-rows"
        return "Correct the row, or drop such rows with --skip-bad-rows"

    def __str__(self) -> str:
        return f"line {self.line}: found {self.found}; expected {self.expected}"


@dataclass
class BadRows:
    """How many rows were dropped, by reason, with the first few of each reason."""

    counts: Counter[Reason] = field(default_factory=Counter)
    examples: list[BadRow] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Rows dropped for any reason."""
        return self.counts.total()

    def add(self, row: BadRow) -> None:
        """Count a row, and keep it as an example while there are few of its kind."""
        self.counts[row.reason] += 1
        if self.counts[row.reason] <= EXAMPLES_PER_REASON:
            self.examples.append(row)

    def __str__(self) -> str:
        if not self.counts:
            return "no bad rows"
        by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()))
        return "\n  ".join([f"{self.total} bad rows ({by_reason}), such as", *map(str, self.examples)])


def explain(row: bytes, line: int, mids: Collection[str]) -> BadRow | None:
    """Say what is wrong with a row that was refused; None for a blank line, which is nobody's fault.

    `row` ends with its line feed; `mids` are the known label ids.
    """
    if len(row) > MAX_LINE_BYTES:
        expected = f"at most {MAX_LINE_BYTES} bytes in a line"
        return BadRow(line, Reason.TOO_LONG, f"more, beginning {_quoted(row[:40])}", expected)
    if b"\0" in row:
        return BadRow(line, Reason.BAD_BYTES, f"a NUL byte at byte {row.index(0)} of the line", "text")
    try:
        text = row.decode().removesuffix("\n").removesuffix("\r").rstrip(" \t")
    except UnicodeDecodeError as error:
        return BadRow(line, Reason.BAD_BYTES, f"the byte 0x{row[error.start]:02x} that is not UTF-8", "UTF-8 text")
    if not text:
        return None
    fields = [part.lstrip(" ") if place else part for place, part in enumerate(text.split(",", 3))]
    if fields[0].strip().lower() in ("ytid", "youtube_id"):
        if line == 1:
            return None  # a header without its '#', as other tools write it
        return BadRow(line, Reason.MALFORMED, f"a header, {_quoted(text)}", "a header to begin with '#'")
    if len(fields) < 4:
        count = f"{len(fields)} field{'s' * (len(fields) > 1)}"
        return BadRow(line, Reason.MALFORMED, f"{count}, {_quoted(text)}", f"four, as in {EXAMPLE}")
    ytid, start, end, labels = fields
    if not re.fullmatch(_ID, ytid):
        expected = "1 to 64 of A-Z a-z 0-9 _ - (YouTube's ids have 11)"
        return BadRow(line, Reason.BAD_ID, f"the id {_quoted(ytid)}", expected)
    if rule := _broken_time_rule(start, end):
        return BadRow(line, Reason.BAD_TIMES, f"start {_quoted(start)} and end {_quoted(end)}", rule)
    return _wrong_labels(labels, line, mids)


def _broken_time_rule(start: str, end: str) -> str | None:
    """What is expected of these two times and does not hold; None if they are right."""
    if not (re.fullmatch(_SECONDS, start) and re.fullmatch(_SECONDS, end)):
        return "seconds from 0 on as plain decimals, such as 30.000"
    start_ms, end_ms = Decimal(start) * 1000, Decimal(end) * 1000
    if start_ms % 1 or end_ms % 1:
        return "times in whole milliseconds"
    if end_ms <= start_ms:
        return "an end after the start"
    if end_ms - start_ms > MAX_SEGMENT_MS:
        return f"at most {MAX_SEGMENT_MS // 1000} seconds from start to end"
    if end_ms > MAX_TIME_MS:
        return f"an end of at most {MAX_TIME_MS / 1000} seconds"
    return None


def _wrong_labels(labels: str, line: int, known: Collection[str]) -> BadRow:
    if not re.fullmatch(_LABELS, labels):
        expected = 'one label, or several in one pair of quotes with commas and no spaces, as in "/m/068hy,/m/0bt9lr"'
        return BadRow(line, Reason.MALFORMED, f"the labels {_quoted(labels)}", expected)
    mids = labels.strip('"').split(",")
    unknown = [mid for mid in mids if mid not in known]
    if unknown:
        found = f"the label {_quoted(unknown[0])}" + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
        return BadRow(
            line, Reason.UNKNOWN_MID, found, f"ids of the class list's {len(known)} classes, such as /m/09x0r"
        )
    repeated = [mid for mid, count in Counter(mids).items() if count > 1]
    return BadRow(line, Reason.REPEATED_MID, f"the label {_quoted(repeated[0])} twice", "each label once")


def _quoted(text: str | bytes) -> str:
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text
    return ascii(shown if len(shown) <= 80 else shown[:77] + "...")
