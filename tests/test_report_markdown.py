"""Markdown and CSV: numbers as in the tables, links that lead somewhere, strangers' text that means nothing."""

from __future__ import annotations

import csv
import io
import re

import pytest
from report_samples import minimal, whole

from attacks.document import Cell, Table, words
from attacks.facts import Source
from attacks.report_markdown import (
    command_line,
    command_words,
    csv_bytes,
    csv_of,
    escaped,
    markdown_of,
    numeric,
    without_source,
)


def cells_of(line: str) -> list[str]:
    """A Markdown row's cells as they are read."""
    raw = re.split(r"(?<!\\)\|", line.strip().strip("|") if not line.endswith("\\|") else line)
    return [re.sub(r"\\(.)", r"\1", cell.strip()).replace("&amp;", "&") for cell in raw]


def tables_of(markdown: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("| ") and not inside:
            found.append([])
        inside = line.startswith("| ")
        if inside:
            found[-1].append(cells_of(line))
    return found


def test_markdown_and_csv_have_the_same_numbers() -> None:
    document = whole().document
    tables = [table for table in document.tables() if table.rows]
    shown = tables_of(markdown_of(document))
    assert len(shown) == len(tables)
    for table, lines in zip(tables, shown, strict=True):
        data = csv_of(table, document.sources)
        read = list(csv.reader(io.StringIO(data.decode(), newline="")))
        assert len(read) == len(table.rows) + 1 == len(lines) - 1
        assert read[0] == [*table.columns, "commands", "digests"]
        for row, line in zip(read[1:], lines[2:], strict=True):
            assert [" ".join(cell.split()) for cell in row[:-2]] == line[:-1]


def test_a_csv_row_names_the_commands_and_digests_behind_it() -> None:
    document = whole().document
    read = list(csv.DictReader(io.StringIO(csv_of(whole().table("table-4"), document.sources).decode(), newline="")))
    row = next(row for row in read if row["Model"] == "CSN")
    sources = {source.folder: source for source in document.sources}
    assert row["commands"] == "evaluate evaluations/csn-s0; evaluate evaluations/csn-s1"
    assert row["digests"] == "; ".join(sources[f"evaluations/csn-s{seed}"].digest for seed in (0, 1))


def test_csv_is_rfc_4180() -> None:
    assert csv_bytes([("a", 'say "x", y'), ("ü", "two\nlines")]) == 'a,"say ""x"", y"\r\nü,"two\nlines"\r\n'.encode()


def test_every_link_has_its_target() -> None:
    text = markdown_of(whole().document)
    links, targets = set(re.findall(r"\]\(#([^)]+)\)", text)), re.findall(r'<a id="([^"]+)"></a>', text)
    assert links and links <= set(targets) and len(targets) == len(set(targets))
    pictures = set(re.findall(r"\]\((figures/[^)]+)\)", text))
    assert pictures == {f"figures/{picture.name}.{picture.kind}" for picture in whole().document.pictures()}


def test_strangers_text_is_shown_and_does_nothing() -> None:
    text = markdown_of(whole().document)
    assert "<script" not in text.replace("\\<script", "")
    assert 'Pipe \\| "quoted", and comma' in text and "Thunder &amp; \\*rain\\*" in text
    tags = re.findall(r"(?<!\\)<[^>]*>", text)
    assert all(tag.startswith('<a id="') or tag == "</a>" for tag in tags)


@pytest.mark.parametrize("text", ["a|b", "`x`", "[a](http://x)", "a\nb", "<b>", "$x$", "a_b_", "~~x~~", "&lt;"])
def test_escapes_read_back(text: str) -> None:
    found = escaped(text)
    assert "\n" not in found
    assert re.sub(r"\\(.)", r"\1", found).replace("&amp;", "&") == " ".join(text.split())
    assert not re.search(r"(?<!\\)[|<>`\[\]*_$~]", found)


def test_commands() -> None:
    command = {"id": "train a", "argv": ["python", "x y"], "seconds": 1234.56, "exit_code": 0}
    assert command_words(command) == "train a, 1,234.6 s, exit code 0"
    assert command_line(command) == "python 'x y'" and command_line({"argv": "rm"}) == ""
    assert without_source([Source("a", "d")], [{"folder": "a"}, {"id": "x"}]) == [{"id": "x"}]
    text = markdown_of(whole().document)
    assert "train again, 0.5 s, exit code 1" in text
    assert "    python pipeline/train.py --model csn --out /study/runs/csn-s0" in text


def test_columns_of_numbers() -> None:
    number, none = Cell("1", kind="number"), Cell("-", kind="none")
    table = Table("x", "X", "", ("a", "b", "c"), ((number, words("w"), none), (none, none, none)))
    assert [numeric(table, i) for i in range(3)] == [True, False, True]


def test_a_minimal_report_says_what_is_missing() -> None:
    text = markdown_of(minimal().document)
    assert "not scored on the report split: csn-s0" in text and "not in this store" in text
