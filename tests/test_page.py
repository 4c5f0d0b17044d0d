"""The page: well formed, whole in itself, safe, every number linked to what made it."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_samples import Sample, minimal, read, whole
from study_folder import make_minimal

from attacks.page import page_of

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """What a page has, and whether its tags close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        target = found.get("href") if tag == "a" else None
        self.links += [target] if target else []
        self.loads += [str(found[name]) for name in ("src", "href", "srcset", "data") if name in found and tag != "a"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if len(self.open) > 1 and self.open[-2] == "td" and self.open[-1] == "a":
            self.cells.append((data, self.links[-1]))


@pytest.fixture(scope="module", params=["whole", "minimal"])
def sample(request: pytest.FixtureRequest) -> Sample:
    return {"whole": whole, "minimal": minimal}[request.param]()


@pytest.fixture(scope="module")
def page(sample: Sample) -> Reader:
    return Reader(page_of(sample.document))


def test_every_tag_closes_and_every_link_leads_somewhere(page: Reader) -> None:
    assert len(page.ids) == len(set(page.ids))
    assert page.links and all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_nothing_is_loaded_and_nothing_runs(page: Reader, sample: Sample) -> None:
    assert all(load.startswith("data:") for load in page.loads)
    assert not [tag for tag, _ in page.tags if tag in ("script", "iframe", "object", "embed", "form", "base")]
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    style = page_of(sample.document).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_every_picture_has_its_words(page: Reader, sample: Sample) -> None:
    found = [attributes.get("alt") for tag, attributes in page.tags if tag == "img"]
    assert found == [picture.alt for picture in sample.document.pictures()]


def test_every_table_has_a_scope_and_scrolls_in_a_box_that_keys_reach(page: Reader, sample: Sample) -> None:
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(bool(table.rows) for table in sample.document.tables())
    boxes = [found for _, found in page.tags if found.get("class") == "scroll"]
    assert len(boxes) == tables and all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert all(found.get("scope") for tag, found in page.tags if tag == "th")


def test_every_number_of_a_table_stands_in_the_page_with_its_source() -> None:
    sample, found = whole(), Reader(page_of(whole().document))
    wanted = [
        cell.text
        for table in sample.document.tables()
        for row in table.rows
        for cell in row[table.lead :][1:]
        if cell.sources and cell.kind == "number"
    ]
    assert [text for text, _ in found.cells] == wanted
    numbers = {f"source-{n}": source for n, source in enumerate(sample.document.sources, 1)}
    clean = json.loads((sample.root / "runs/csn-s0/summary.json").read_text())["best"]["mAP"]
    link = next(link for text, link in found.cells if text == f"{clean:.3f}")
    assert numbers[link[1:]].folder == "runs/csn-s0"


def test_a_mean_over_seeds_leads_to_all_its_files() -> None:
    text = page_of(whole().document)
    (line,) = [part for part in text.split("<li id=") if part.startswith('"set-1"')]
    first = line.partition("</li>")[0]
    assert first.count('href="#source-') == 2


def test_strangers_text_is_shown_as_text(tmp_path: object) -> None:
    text = page_of(whole().document)
    assert "<script" not in text and "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in text
    assert "<script>alert('x')</script>" in "".join(Reader(text).texts)
    study = make_minimal(tmp_path)  # type: ignore[arg-type]
    plan = json.loads((study.root / "study.json").read_text())
    evil = '"><img src=x onerror=alert(1)>'
    plan |= {"name": evil, "scale": evil, "splits": {"fit": [evil], "select": [evil]}}
    plan["models"].append({"name": evil, "model": evil})
    (study.root / "study.json").write_text(json.dumps(plan))
    (study.root / "commands.jsonl").write_text(json.dumps({"id": evil, "argv": [evil], "folder": "runs/csn-s0"}) + "\n")
    shown = Reader(page_of(read(study.root).document))
    assert not [found for tag, found in shown.tags if tag == "img" and not str(found["src"]).startswith("data:")]
    assert "".join(shown.texts).count(evil) > 5


def test_verdicts_come_first_and_the_changed_are_marked() -> None:
    document = whole().document
    text = page_of(document)
    assert text.index('id="conclusions"') < text.index('id="warnings"') < text.index('id="table-1"')
    assert text.count('class="word cannot-be-told-here"') == 3
    box = text.partition('id="conclusions"')[2].partition('id="warnings"')[0]
    assert [f'href="#table-{number}"' in box for number in (1, 2, 3, 4)] == [True] * 4
    assert "has changed since" not in text
    source = replace(document.sources[0], command={"id": "x", "digest": "other"})
    assert "has changed since" in page_of(replace(document, sources=(source, *document.sources[1:])))


def test_sections_are_in_the_contents(page: Reader, sample: Sample) -> None:
    names = [section.name for section in sample.document.sections]
    assert page.links[: len(names) + 3] == [f"#{name}" for name in ("conclusions", "warnings", *names, "sources")]
