"""A report before it is written as a page, as Markdown or as CSV: sections, tables, pictures and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attacks.facts import Fact, Source
from attacks.intervals import Interval, mean_interval
from models.chance import Band

NOT_IN_STORE, NOT_ON_RECORD, UNDEFINED = "not in this store", "not on record", "not defined"
VerdictWord = Literal["supported", "not supported", "cannot be told here"]


@dataclass(frozen=True)
class Cell:
    """A cell's text, and the folders whose files its number was read from.

    Attributes:
        kind: `words`, `number`, or `none` for what is not there.
    """

    text: str
    sources: tuple[str, ...] = ()
    kind: Literal["words", "number", "none"] = "words"


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        name: of its CSV file, and its anchor.
        caption: what was measured, on which clips, under what.
        columns: a comma parts a group from its member: 'mAP, paper'.
        folded: whether the page shows it on demand only.
        lead: how many of the first columns head a group of rows on the page, which leaves room for numbers on a phone.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False
    lead: int = 0

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"{self.name}: expected rows of {len(self.columns)} cells, got one of {wrong[0]}")


@dataclass(frozen=True)
class Picture:
    """A picture's file.

    Attributes:
        alt: what it shows, in words, for who cannot see it.
    """

    name: str
    title: str
    alt: str
    data: bytes
    kind: Literal["png", "svg"]


@dataclass(frozen=True)
class Gallery:
    """Pictures that are looked at together."""

    name: str
    title: str
    caption: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Points:
    """Sentences in a list."""

    title: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What a study says of one of the paper's conclusions; `tables` are the sections that its numbers stand in."""

    number: int
    question: str
    paper: str
    word: VerdictWord
    reason: str
    findings: tuple[str, ...]
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A part of the report, in its order."""

    name: str
    title: str
    paragraphs: tuple[str, ...]
    parts: tuple[Table | Gallery | Points, ...] = ()


@dataclass(frozen=True)
class Document:
    """All of it.

    Attributes:
        sources: the files that numbers come from, in the order of their numbers.
        commands: every command on record.
        numbers: the long table, for other programs: a row for each scored condition, at full precision.
    """

    title: str
    lead: tuple[str, ...]
    warnings: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]
    sources: tuple[Source, ...]
    commands: tuple[Mapping[str, Any], ...]
    numbers: tuple[tuple[str, ...], ...]

    def tables(self) -> list[Table]:
        """All tables, in order."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Table)]

    def pictures(self) -> list[Picture]:
        """All pictures, in order."""
        galleries = [part for section in self.sections for part in section.parts if isinstance(part, Gallery)]
        return [picture for gallery in galleries for picture in gallery.pictures]


# ---------------------------------------------------------------- how numbers are written


def fixed(value: float, digits: int = 3, sign: bool = False) -> str:
    """`0.221`, `+0.013`, `−0.013`: with a true minus, and no minus before zero."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    if not float(text):
        text = text.replace("-", "+" if sign else "")
    return text.replace("-", "−")


def interval_text(found: Interval, digits: int = 3, sign: bool = False) -> str:
    """`0.221 ± 0.013`, or `0.221 (one seed)`."""
    mean = fixed(found.mean, digits, sign)
    return f"{mean} (one seed)" if found.half is None else f"{mean} ± {found.half:.{digits}f}"


def words(text: str) -> Cell:
    """A cell of words."""
    return Cell(text)


def absent(text: str = NOT_IN_STORE) -> Cell:
    """A cell for what is not there."""
    return Cell(text, kind="none")


def sources_of(*facts: Mapping[int, Fact] | Sequence[Fact]) -> tuple[str, ...]:
    """The folders of facts, each once, in order."""
    listed = [list(item.values()) if isinstance(item, Mapping) else list(item) for item in facts]
    return tuple(dict.fromkeys(fact.source for group in listed for fact in group))


def mean_cell(
    values: Mapping[int, float], sources: tuple[str, ...], digits: int = 3, sign: bool = False, missing: str = UNDEFINED
) -> Cell:
    """Mean over seeds with its interval; `missing` where there is no value."""
    found = mean_interval([values[seed] for seed in sorted(values)])
    return absent(missing) if found is None else Cell(interval_text(found, digits, sign), sources, "number")


def band_cell(bands: Sequence[Band], sources: tuple[str, ...], digits: int = 3) -> Cell:
    """`0.412 [0.398, 0.425]`, each end a mean over seeds."""
    if not bands:
        return absent("not measured")
    mean, low, high = (sum(getattr(band, name) for band in bands) / len(bands) for name in ("mean", "low", "high"))
    return Cell(f"{fixed(mean, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]", sources, "number")


def plain_cell(values: Sequence[float], sources: tuple[str, ...]) -> Cell:
    """A mean in four significant digits, for norms; with the range where seeds differ in them."""
    if not values:
        return absent("not measured")
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return Cell(low if low == high else f"{low} to {high}", sources, "number")
