"""The report as one HTML page: all within the file, no script, nothing loaded from anywhere."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Sequence
from html import escape
from itertools import groupby

from attacks.document import Cell, Document, Gallery, Picture, Points, Section, Table, Verdict
from attacks.facts import Source
from attacks.page_style import STYLE
from attacks.report_markdown import command_id, command_line, command_words, numeric, without_source

TYPES = {"png": "image/png", "svg": "image/svg+xml"}


def page_of(document: Document) -> str:
    """The whole page; every number links to the command that made it, below."""
    return _Page(document).text()


class _Page:
    """One page in the making: knows which sets of sources its numbers come from."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.place = {source.folder: number for number, source in enumerate(document.sources, 1)}
        self.known = {source.folder: source for source in document.sources}
        self.sets: dict[tuple[str, ...], int] = {}

    def text(self) -> str:
        """HTML."""
        document = self.document
        body = [_part(self, section) for section in document.sections]
        links = [("conclusions", "Conclusions"), ("warnings", "Warnings")]
        links += [(section.name, _short(section.title)) for section in document.sections]
        links.append(("sources", "Commands"))
        listed = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in links)
        lead = "".join(f"<p>{escape(text)}</p>" for text in document.lead)
        verdicts = "".join(_verdict(verdict) for verdict in document.verdicts)
        warnings = _list(document.warnings) if document.warnings else "<p>None.</p>"
        return (
            '<!DOCTYPE html>\n<html lang="en-GB">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'
            f"<title>{escape(document.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f"<header><h1>{escape(document.title)}</h1>{lead}</header>\n"
            f'<nav aria-label="Sections"><ul>{listed}</ul></nav>\n<main>\n'
            '<section id="conclusions"><h2>What this store says of the paper’s three conclusions</h2>'
            f'<div class="verdicts">{verdicts}</div></section>\n'
            f'<section id="warnings"><h2>Warnings</h2><div class="warnings">{warnings}</div></section>\n'
            f"{''.join(body)}{self._sources()}</main>\n"
            "<footer>The same tables stand in report.md and, for other programs, in tables/*.csv beside this page. "
            "Numbers with a dotted line lead to the command that made them.</footer>\n</body>\n</html>\n"
        )

    def cell(self, cell: Cell, first: bool) -> str:
        """A table's cell, linked to its sources where it has any."""
        inner = escape(cell.text)
        folders = tuple(folder for folder in cell.sources if folder in self.place)
        if folders:
            made = "; ".join(self._made(self.known[folder]) for folder in folders)
            inner = f'<a href="#{self._target(folders)}" title="{escape(f"made by {made}")}">{inner}</a>'
        return f'<th scope="row">{inner}</th>' if first else f'<td class="{cell.kind}">{inner}</td>'

    def _target(self, folders: tuple[str, ...]) -> str:
        if len(folders) == 1:
            return f"source-{self.place[folders[0]]}"
        return f"set-{self.sets.setdefault(folders, len(self.sets) + 1)}"

    @staticmethod
    def _made(source: Source) -> str:
        return f"{command_id(source)}, sha256 {source.digest[:12]}…"

    def _sources(self) -> str:
        """Commands and files; also the sets of them that means over seeds come from."""
        shown = [self._source(source) for source in self.document.sources]
        if self.sets:
            shown.append('<h3>Numbers that come from several files</h3><ol class="sets">')
            for folders, number in self.sets.items():
                links = ", ".join(f'<a href="#source-{self.place[f]}">{escape(f)}</a>' for f in folders)
                shown.append(f'<li id="set-{number}">{links}</li>')
            shown.append("</ol>")
        others = without_source(self.document.sources, self.document.commands)
        if others:
            shown.append(
                f"<h3>Commands that no number comes from</h3>{_list([command_words(item) for item in others])}"
            )
        about = "<p>Every number above was read from one of these files. The digest is of the file as it was read.</p>"
        nothing = "" if self.document.sources else "<p>No result has been read.</p>"
        return f'<section id="sources"><h2>Where the numbers come from</h2>{about}{nothing}{"".join(shown)}</section>\n'

    def _source(self, source: Source) -> str:
        number, command = self.place[source.folder], source.command or {}
        lines = [f"<h3>{number}. {escape(source.folder)}/summary.json</h3>"]
        lines.append(f"<p>{escape(command_words(command)) if command else 'No command on record.'}</p>")
        if command_line(command):
            # Each word by itself, or lines would break after its hyphens.
            words = " ".join(f"<span>{escape(shlex.quote(str(word)))}</span>" for word in command["argv"])
            lines.append(f"<pre><code>{words}</code></pre>")
        lines.append(f"<p>sha256 <code>{source.digest}</code></p>")
        if source.changed:
            lines.append('<p class="changed">The file has changed since its command ended.</p>')
        return f'<article class="source" id="source-{number}">{"".join(lines)}</article>'


def _part(page: _Page, section: Section) -> str:
    parts = [f'<section id="{section.name}"><h2>{escape(section.title)}</h2>']
    parts += [f"<p>{escape(text)}</p>" for text in section.paragraphs]
    for part in section.parts:
        if isinstance(part, Table):
            parts.append(_table(page, part, part.title != section.title))
        elif isinstance(part, Gallery):
            parts.append(_gallery(part, part.title != section.title))
        elif isinstance(part, Points):
            parts.append(f"<h3>{escape(part.title)}</h3>{_list(part.items)}")
    return "".join(parts) + "</section>\n"


def _table(page: _Page, table: Table, titled: bool) -> str:
    # Sections may have the name of their first table; the table's own anchor is another.
    heading = f"<h3>{escape(table.title)}</h3>" if titled else ""
    caption = f'<p class="caption">{escape(table.caption)}</p>'
    if not table.rows:
        return f'<div class="table" id="t-{table.name}">{heading}{caption}<p>No row: not in this store.</p></div>'
    rows: list[str] = []
    above: tuple[str, ...] = ()
    lead = table.lead
    for row in table.rows:
        head = tuple(cell.text for cell in row[:lead])
        if lead and head != above:
            above = head
            words = f"<span>{escape(' · '.join(head))}</span>"
            rows.append(f'<tr class="group"><th scope="rowgroup" colspan="{len(row) - lead}">{words}</th></tr>')
        rows.append(f"<tr>{''.join(page.cell(cell, i == 0) for i, cell in enumerate(row[lead:]))}</tr>")
    region = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
    inner = f"{region}<table>{_head(table)}<tbody>{''.join(rows)}</tbody></table></div>"
    notes = (
        f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in table.notes)}</ul>' if table.notes else ""
    )
    file = f'<p class="caption">As CSV: tables/{table.name}.csv</p>'
    if table.folded:
        title = f"<summary>{escape(table.title)} ({len(table.rows)} rows)</summary>"
        return f'<details id="t-{table.name}">{title}{caption}{inner}{notes}{file}</details>'
    return f'<div class="table" id="t-{table.name}">{heading}{caption}{inner}{notes}{file}</div>'


def _head(table: Table) -> str:
    """One row of columns, or two where neighbours have the same words before a comma."""
    shown = range(table.lead, len(table.columns))
    parts = [column.partition(", ") for column in table.columns]
    groups = [(name, list(found)) for name, found in groupby(shown, lambda i: parts[i][0])]
    if all(len(found) == 1 for _, found in groups):
        cells = "".join(f'<th scope="col"{_right(table, i)}>{escape(table.columns[i])}</th>' for i in shown)
        return f"<thead><tr>{cells}</tr></thead>"
    upper, lower = [], []
    for name, found in groups:
        if len(found) == 1:
            column = table.columns[found[0]]
            upper.append(f'<th scope="col" rowspan="2"{_right(table, found[0])}>{escape(column)}</th>')
        else:
            upper.append(f'<th scope="colgroup" colspan="{len(found)}" class="columns">{escape(name)}</th>')
            lower += [f'<th scope="col"{_right(table, i)}>{escape(parts[i][2])}</th>' for i in found]
    return f"<thead><tr>{''.join(upper)}</tr><tr>{''.join(lower)}</tr></thead>"


def _right(table: Table, column: int) -> str:
    return ' style="text-align:right"' if numeric(table, column) else ""


def _gallery(gallery: Gallery, titled: bool) -> str:
    pictures = "".join(_picture(picture) for picture in gallery.pictures)
    inner = f'<div class="gallery">{pictures}</div>' if pictures else "<p>Not in this store.</p>"
    heading = f'<h3 id="g-{gallery.name}">{escape(gallery.title)}</h3>' if titled else ""
    return f'{heading}<p class="caption">{escape(gallery.caption)}</p>{inner}'


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    source = f"data:{TYPES[picture.kind]};base64,{data}"
    return (
        f'<figure id="p-{picture.name}"><img src="{source}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.title)}</figcaption></figure>"
    )


def _verdict(verdict: Verdict) -> str:
    kind = verdict.word.replace(" ", "-")
    links = ", ".join(f'<a href="#{name}">{escape(name.replace("table-", "Table "))}</a>' for name in verdict.tables)
    return (
        f'<article class="verdict"><h3>{verdict.number}. {escape(verdict.question)}</h3>'
        f'<p><span class="word {kind}">{escape(verdict.word[0].upper() + verdict.word[1:])}</span> '
        f"{escape(verdict.reason)}</p><p>The paper: {escape(verdict.paper)}</p>{_list(verdict.findings)}"
        f"<p>The numbers, with what made them: {links}.</p></article>"
    )


def _list(items: Sequence[str], attributes: str = "") -> str:
    return f"<ul{attributes}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _short(title: str) -> str:
    return title.partition(":")[0]
