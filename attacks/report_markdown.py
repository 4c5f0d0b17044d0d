"""The report as Markdown and its tables as CSV (RFC 4180)."""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attacks.document import Document, Gallery, Points, Section, Table, Verdict
from attacks.facts import Source

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def markdown_of(document: Document) -> str:
    """The whole report; every table row links to the commands that made its numbers."""
    place = {source.folder: number for number, source in enumerate(document.sources, 1)}
    lines = [f"# {escaped(document.title)}", ""]
    for text in document.lead:
        lines += [escaped(text), ""]
    lines += ["## What this store says of the paper's conclusions", ""]
    for verdict in document.verdicts:
        lines += [*_verdict(verdict), ""]
    lines += ["## Warnings", "", *(_points(document.warnings) or ["None."]), ""]
    for section in document.sections:
        lines += _section(section, place)
    lines += ["## Where the numbers come from", ""]
    lines += [_source(number, source) for number, source in enumerate(document.sources, 1)]
    lines += _unlinked(document.sources, document.commands)
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """A text that Markdown shows as it is, on one line: also in a table, and with no HTML of its own."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def csv_of(table: Table, sources: Sequence[Source]) -> bytes:
    """A table's rows as they are shown, with the commands that made them and the digests of what these left."""
    known = {source.folder: source for source in sources}
    rows: list[Sequence[str]] = [(*table.columns, "commands", "digests")]
    for row in table.rows:
        used = [known[folder] for folder in folders_of(row) if folder in known]
        commands = "; ".join(command_id(source) for source in used)
        rows.append((*(cell.text for cell in row), commands, "; ".join(source.digest for source in used)))
    return csv_bytes(rows)


def csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """UTF-8, comma-separated, lines ended by CR LF."""
    sink = io.StringIO(newline="")
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode()


def folders_of(row: Sequence[Any]) -> list[str]:
    """Of a row's cells, each once."""
    return list(dict.fromkeys(folder for cell in row for folder in cell.sources))


def command_id(source: Source) -> str:
    """The command's name, or the folder's where no command is on record."""
    return str((source.command or {}).get("id") or source.folder)


def command_line(command: Mapping[str, Any]) -> str:
    """As it can be typed into a shell."""
    words = command.get("argv")
    return shlex.join(map(str, words)) if isinstance(words, list) else ""


def _verdict(verdict: Verdict) -> list[str]:
    head = f"### {verdict.number}. {escaped(verdict.question)}"
    answer = f"**{verdict.word[0].upper()}{verdict.word[1:]}.** {escaped(verdict.reason)}".rstrip()
    links = ", ".join(f"[{name.replace('table-', 'Table ')}](#{name})" for name in verdict.tables)
    where = f"The numbers, with what made them: {links}."
    return [head, "", answer, "", f"The paper: {escaped(verdict.paper)}", "", *_points(verdict.findings), "", where]


def _points(items: Sequence[str]) -> list[str]:
    return [f"- {escaped(item)}" for item in items]


def _section(section: Section, place: Mapping[str, int]) -> list[str]:
    lines = [f'<a id="{section.name}"></a>', "", f"## {escaped(section.title)}", ""]
    for text in section.paragraphs:
        lines += [escaped(text), ""]
    for part in section.parts:
        lines += [f"### {escaped(part.title)}", ""] if part.title != section.title else []
        if isinstance(part, Table):
            lines += _table(part, place)
        elif isinstance(part, Gallery):
            lines += _gallery(part)
        elif isinstance(part, Points):
            lines += [*_points(part.items), ""]
    return lines


def _gallery(gallery: Gallery) -> list[str]:
    lines = [escaped(gallery.caption), ""]
    for picture in gallery.pictures:
        lines += [f"![{escaped(picture.alt)}](figures/{picture.name}.{picture.kind})", "", escaped(picture.title), ""]
    return lines


def _table(table: Table, place: Mapping[str, int]) -> list[str]:
    lines = [escaped(table.caption), ""]
    if not table.rows:
        return [*lines, "No row: not in this store.", ""]
    lines.append(_row([*map(escaped, table.columns), "made by"]))
    lines.append(_row(["---:" if numeric(table, i) else "---" for i in range(len(table.columns))] + ["---"]))
    for row in table.rows:
        made = ", ".join(f"[{place[folder]}](#source-{place[folder]})" for folder in folders_of(row) if folder in place)
        lines.append(_row([*(escaped(cell.text) for cell in row), made]))
    return [*lines, "", *_points(table.notes), *([""] if table.notes else [])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, as far as it holds anything."""
    kinds = {row[column].kind for row in table.rows}
    return "number" in kinds or kinds == {"none"}


def _source(number: int, source: Source) -> str:
    command = source.command or {}
    line = f'<a id="source-{number}"></a>{number}. {escaped(source.folder)}/summary.json, sha256 {source.digest}'
    if not command:
        return f"{line}; no command on record\n"
    changed = " **The file has changed since.**" if source.changed else ""
    return f"{line}; {escaped(command_words(command))}{changed}\n\n{_code(command_line(command))}\n"


def command_words(command: Mapping[str, Any]) -> str:
    """`evaluate csn-s0, 12.3 s, exit code 0`."""
    parts = [str(command.get("id", "a command without a name"))]
    seconds = command.get("seconds")
    parts += [f"{seconds:,.1f} s"] if isinstance(seconds, int | float) else []
    return ", ".join(parts + ([f"exit code {command['exit_code']}"] if "exit_code" in command else []))


def _code(text: str) -> str:
    """Indented, so that no character in it means anything."""
    return "    " + " ".join(text.split())


def _unlinked(sources: Sequence[Source], commands: Sequence[Mapping[str, Any]]) -> list[str]:
    others = without_source(sources, commands)
    if not others:
        return []
    lines = ["### Commands that no number comes from", ""]
    return lines + [f"- {escaped(command_words(command))}" for command in others]


def without_source(sources: Sequence[Source], commands: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Commands whose folder has left no result that was read."""
    used = {source.folder for source in sources}
    return [command for command in commands if command.get("folder") not in used]
