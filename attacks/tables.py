"""Tables 1 to 6 in the paper's form: the paper's number, ours as mean ± interval over seeds, and the difference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from attacks.document import (
    NOT_ON_RECORD,
    Cell,
    Section,
    Table,
    absent,
    fixed,
    interval_text,
    mean_cell,
    sources_of,
    words,
)
from attacks.facts import FUSIONS, VARIANTS, Entry, Fact, Study, Variant, values_of
from attacks.intervals import mean_interval
from attacks.masks import Mask
from attacks.paper_tables import INCONSISTENCIES, TABLES, UNPLACED, PaperTable, RowKey
from attacks.table_controls import controls_table, floor_table

METRIC_WORDS = {"mAP": "mAP", "AUC": "AUC", "d_prime": "d′"}
MODEL_WORDS = {
    "csn": "CSN",
    "crnn": "CRNN",
    "resnet50": "ResNet-50",
    "video": "video only",
    "early": "early fusion",
    "mid1": "mid fusion 1",
    "mid2": "mid fusion 2",
    "late": "late fusion",
}


@dataclass(frozen=True)
class Measured:
    """A row's key with what was measured: clean and attacked facts by seed; `everyone` where they are of one run."""

    key: RowKey
    variant: Variant | None
    clean: Mapping[int, Fact]
    facts: Mapping[int, Fact]
    everyone: Mapping[int, Fact] | None = None


def table_sections(study: Study) -> list[Section]:
    """A section for each of Tables 1 to 4, the scores first, then their controls."""
    return [_section(study, TABLES[number]) for number in (1, 2, 3, 4)]


def key_words(key: RowKey) -> str:
    """`not attacked`, or the norm, ε and the region: 'l2, ε 0.3, mel bins 0–20 (0–975 Hz)'."""
    if key.norm is None or key.epsilon is None:
        return "not attacked"
    parts = [f"{norm_words(key.norm)}, ε {epsilon_words(key.epsilon)}"]
    return ", ".join(parts + ([region_words(mask_of(key))] if mask_of(key) != Mask() else []))


def norm_words(norm: str) -> str:
    """`l1`, `l2` or `l∞`."""
    return f"l{norm}".replace("inf", "∞")


def epsilon_words(epsilon: float) -> str:
    """`0.3`, or `without bound`."""
    return "without bound" if math.isinf(epsilon) else f"{epsilon:g}"


def region_words(mask: Mask) -> str:
    """Where a perturbation may be, in bins and hertz, frames and seconds."""
    found = []
    if mask.freq != Mask().freq:
        found.append(f"mel bins {mask.freq[0]}–{mask.freq[1]}" + (f" ({mask.hertz})" if mask.hertz else ""))
    if mask.time != Mask().time:
        seconds = "–".join(f"{frame * 0.025:g}" for frame in mask.time)
        found.append(f"frames {mask.time[0]}–{mask.time[1]} ({seconds} s)")
    return ", ".join(found) or "everywhere"


def mask_of(key: RowKey) -> Mask:
    """The row's allowed region."""
    full = Mask()
    return Mask(key.freq or full.freq, key.time or full.time)


def clips_words(facts: Sequence[Fact]) -> str:
    """On which clips: 'the report split eval, 20,123 clips'."""
    found = sorted({(fact.split, fact.clips) for fact in facts})
    return "; ".join(f"the {facts[0].place} split {split}, {clips:,} clips" for split, clips in found) or "no clips yet"


def seeds_words(facts: Sequence[Fact]) -> str:
    """How many seeds: 'mean ± 95 % t-interval over seeds 0, 1 and 2'."""
    seeds = sorted({fact.seed for fact in facts})
    if len(seeds) < 2:
        return "one seed, so no interval" if seeds else "no seed yet"
    return f"mean ± 95 % t-interval over the seeds {', '.join(map(str, seeds))}"


# ---------------------------------------------------------------- Tables 1 to 4


def _section(study: Study, table: PaperTable) -> Section:
    best = table.number in (2, 3)
    name, title = f"table-{table.number}", f"Table {table.number}"
    keys = [row.key for row in table.rows]
    blocks = [(name, title, table.caption, keys)]
    if best:
        other: list[RowKey] = [replace(key, norm="inf") for key in keys]
        caption = f"{table.caption} – repeated under l∞, as the paper's footnote 4 does"
        blocks.append((f"{name}-linf", f"{title} under l∞", caption, other))
    parts = []
    for block, heading, caption, block_keys in blocks:
        rows = list(_measured(study, block_keys, best))
        parts.append(_scores(study, table, block, heading, caption, rows, best))
        pairs = [(key_label(row.key), row.variant, row.clean, row.facts) for row in rows if row.variant]
        parts.append(controls_table(block, heading, clips_words(_facts(rows)), pairs))
        fusions = [row for row in rows if row.variant and row.key.model in FUSIONS]
        if fusions:
            pairs = [(key_label(row.key), row.variant, row.clean, row.facts) for row in fusions if row.variant]
            entries = [study.entry_of(row.key.model) for row in fusions]
            parts.append(floor_table(study, block, heading, clips_words(_facts(rows)), pairs, entries))
    return Section(name, f"{title}: {table.caption}", _about(study, table, best), tuple(parts))


def for_readers(text: str) -> str:
    """What `paper_tables` says to readers of the code, said to readers of the report."""
    return text.replace("RECIPE.md 5", "the project's recipe").replace("see UNPLACED", "see the note")


def key_label(key: RowKey) -> tuple[str, str]:
    """Model and attack in words."""
    return MODEL_WORDS.get(key.model, key.model), key_words(key)


def _measured(study: Study, keys: Sequence[RowKey], best: bool) -> Iterator[Measured]:
    chosen = study.best_run("csn") if best else None
    seen: set[str] = set()
    for key in keys:
        entry = study.entry_of(key.model)
        clean = study.by_seed(entry.name, "clean") if entry else {}
        mine = _only(clean, chosen.seed if chosen else None) if best else clean
        if key.model not in seen:
            seen.add(key.model)
            yield Measured(RowKey(key.model), None, mine, mine, clean if best else None)
        for variant in VARIANTS:
            assert key.norm and key.epsilon
            norm, epsilon, mask = key.norm, key.epsilon, mask_of(key).name
            found = study.attacked(entry.name, variant, norm, epsilon, mask) if entry else {}  # type: ignore[arg-type]
            yield Measured(
                key,
                variant,
                mine,
                _only(found, chosen.seed if chosen else None) if best else found,
                found if best else None,
            )


def _only(facts: Mapping[int, Fact], seed: int | None) -> dict[int, Fact]:
    return {seed: facts[seed]} if seed is not None and seed in facts else {}


def _scores(
    study: Study, table: PaperTable, name: str, heading: str, caption: str, rows: Sequence[Measured], best: bool
) -> Table:
    columns = ["Model", "Attack", "How δ is kept small"]
    for word in METRIC_WORDS.values():
        columns += [f"{word}, paper", f"{word}, ours", f"{word}, difference"]
        columns += [f"{word}, ours, all seeds"] if best else []
    made = []
    for row in rows:
        model, attack = key_label(row.key)
        cells = [words(model), words(attack), words(row.variant.words if row.variant else "clean")]
        for metric in METRIC_WORDS:
            paper, ours = table.value(row.key, metric), values_of(row.facts, metric)
            cells += comparison(paper, ours, sources_of(row.facts), bool(row.facts), alone=best)
            if best:
                everyone = row.everyone or {}
                value = mean_cell(values_of(everyone, metric), sources_of(everyone))
                cells.append(value if everyone else absent())
        made.append(tuple(cells))
    chosen = study.best_run("csn") if best else None
    which = (
        f"Ours: one run, {chosen.name}, the CSN with the best validation mAP ({fixed(chosen.valid['mAP'])})"
        if chosen
        else "Ours"
    )
    spread = seeds_words(_facts(rows, everyone=best))
    about = (
        f"{caption}. Measured on {clips_words(_facts(rows))}. {which}{'; all seeds:' if best else ':'} {spread}. "
        "Difference: ours minus the paper's. Every ε is given for three ways of keeping δ small: which one the paper's "
        "numbers were made with is not on record here."
    )
    return Table(name, f"{heading}: scores", about, tuple(columns), tuple(made), _notes(table), lead=2)


def comparison(
    paper: float | None, ours: Mapping[int, float], sources: tuple[str, ...], there: bool, alone: bool = False
) -> list[Cell]:
    """Three cells: the paper's number, ours, and ours minus the paper's.

    Args:
        there: whether the store has the row at all; if so, a missing value is an undefined one.
        alone: whether it is of one run that was chosen, about which no interval is to be expected.
    """
    printed = Cell(f"{paper:g}", kind="number") if paper is not None else absent(NOT_ON_RECORD)
    found = mean_interval([ours[seed] for seed in sorted(ours)])
    cell = mean_cell(ours, sources) if there else absent()
    if alone and found:
        cell = Cell(fixed(found.mean), sources, "number")
    if paper is None or found is None:
        return [printed, cell, absent("–")]
    shifted = replace(found, mean=found.mean - paper)
    difference = fixed(shifted.mean, sign=True) if alone else interval_text(shifted, sign=True)
    return [printed, cell, Cell(difference, sources, "number")]


def _facts(rows: Sequence[Measured], everyone: bool = False) -> list[Fact]:
    return [fact for row in rows for fact in ((row.everyone or {}) if everyone else row.facts).values()]


def _about(study: Study, table: PaperTable, best: bool) -> tuple[str, ...]:
    found = [f"{table.source}. Not on record here: {for_readers(table.missing)}."]
    if best and study.best_run("csn") is None:
        found.append("This store has no trained CSN with a validation score, so there is no best one to attack.")
    if table.layout_inferred:
        found.append("Which rows stand in this table of the paper is inferred.")
    return tuple(found)


def _notes(table: PaperTable) -> tuple[str, ...]:
    found = [
        f"On record, but not in which table: {MODEL_WORDS[row.key.model]}, {key_words(row.key)}: mAP "
        f"{row.values['mAP']:g} ({row.note})."
        for row in UNPLACED
        if table.find(row.key)
    ]
    found += [f"Known of the paper: {item.statement}." for item in INCONSISTENCIES if table.number in item.tables]
    return tuple(found + [f"{key_words(row.key)}: {row.note}." for row in table.rows if row.note])


def entries_of(study: Study, models: Sequence[str]) -> list[Entry]:
    """The study's models of those kinds, in that order."""
    return [entry for model in models if (entry := study.entry_of(model))]
