"""Tables 5 and 6: single classes, clean and attacked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

from attacks.document import Cell, Section, Table, absent, mean_cell, sources_of, words
from attacks.facts import VARIANTS, Entry, Fact, Study, Variant
from attacks.intervals import mean_interval
from attacks.norms import Norm
from attacks.paper_tables import TABLES, RowKey
from attacks.tables import MODEL_WORDS, clips_words, comparison, epsilon_words, for_readers, norm_words, seeds_words

CLASSES_5, TOP_6 = 8, 10
MODELS_5 = ("crnn", "csn")
NORM: Norm = "2"
EPSILON = 0.1


def class_sections(study: Study) -> list[Section]:
    """Tables 5 and 6."""
    return [_fifth(study), _sixth(study)]


def classes_shown(study: Study) -> list[str]:
    """Display names of Table 5's classes: the paper's where they are on record, else those with most clips."""
    named = dict.fromkeys(row.key.class_name for row in TABLES[5].rows if row.key.class_name)
    if named:
        return [name for name in named if name]
    order = sorted(range(len(study.positives)), key=lambda index: (-study.positives[index], index))
    return [study.classes[index][1] for index in order[:CLASSES_5] if study.positives[index]]


def index_of(study: Study, name: str) -> int | None:
    """A class's index by its display name; None where the store lacks it or has no clip of it."""
    found = next((i for i, (_, shown) in enumerate(study.classes) if shown == name), None)
    return found if found is not None and study.positives[found] else None


def class_values(facts: Mapping[int, Fact], index: int | None, metric: str) -> dict[int, float]:
    """A class's AP, AUC or d′ by seed, where it is defined."""
    if index is None:
        return {}
    picked = {seed: (fact.ap if metric == "mAP" else fact.auc)[index] for seed, fact in facts.items()}
    found = {seed: value for seed, value in picked.items() if value is not None}
    if metric == "d_prime":
        return {seed: math.sqrt(2) * NormalDist().inv_cdf(value) for seed, value in found.items() if 0 < value < 1}
    return found


def _fifth(study: Study) -> Section:
    table = TABLES[5]
    names = classes_shown(study)
    columns = ["Class", "Model", "Attack", "Clips"]
    for word in ("AP", "AUC", "d′"):
        columns += [f"{word}, paper", f"{word}, ours", f"{word}, difference"]
    rows, seen = [], []
    for name in names:
        index = index_of(study, name)
        for model in MODELS_5:
            for variant, facts in _conditions(study, study.entry_of(model)):
                key = RowKey(model, class_name=name)
                key = replace(key, norm=NORM, epsilon=EPSILON) if variant else key
                count = Cell(f"{study.positives[index]:,}", kind="number") if index is not None else absent()
                condition = variant.words if variant else "clean"
                cells = [words(name), words(MODEL_WORDS[model]), words(condition), count]
                for metric in table.columns:
                    values = class_values(facts, index, metric)
                    there = index is not None and bool(facts)
                    cells += comparison(table.value(key, metric), values, sources_of(facts), there)
                rows.append(tuple(cells))
                seen += list(facts.values())
    own = (
        ""
        if table.rows
        else f" The paper's eight classes are not on record; these are the {len(names)} with most clips."
    )
    caption = (
        f"{table.caption}.{own} Clean, and attacked with δ kept small in three ways. Measured on "
        f"{clips_words(seen)}; {seeds_words(seen)}. AP is the class's average "
        "precision; clips: how many of the split have the class."
    )
    made = Table("table-5", "Table 5: classes", caption, tuple(columns), tuple(rows), lead=2)
    about = [f"{table.source}. Not on record here: {for_readers(table.missing)}."]
    if not names:
        about.append("No class has been scored yet.")
    return Section("table-5", f"Table 5: {table.caption}", tuple(about), (made,))


def _conditions(study: Study, entry: Entry | None) -> list[tuple[Variant | None, Mapping[int, Fact]]]:
    clean = study.by_seed(entry.name, "clean") if entry else {}
    attacked = [(v, study.attacked(entry.name, v, NORM, EPSILON) if entry else {}) for v in VARIANTS]
    return [(None, clean), *attacked]


def _sixth(study: Study) -> Section:
    table = TABLES[6]
    conditions = _conditions(study, study.entry_of("csn"))
    titles = ["clean", *(f"attacked: {variant.words}" for variant in VARIANTS)]
    columns = ["Rank", *(f"{title}, {word}" for title in titles for word in ("class", "AP"))]
    ranked = [top_classes(study, facts) for _, facts in conditions]
    depth = max(map(len, ranked))
    rows = []
    for rank in range(depth):
        cells = [Cell(str(rank + 1), kind="number")]
        for order, (_, facts) in zip(ranked, conditions, strict=True):
            if rank < len(order):
                index = order[rank]
                cells += [
                    words(study.classes[index][1]),
                    mean_cell(class_values(facts, index, "mAP"), sources_of(facts)),
                ]
            else:
                cells += [absent(), absent()]
        rows.append(tuple(cells))
    seen = [fact for _, facts in conditions for fact in facts.values()]
    caption = (
        f"{table.caption}: the {TOP_6} classes with the highest average precision (AP), for the clean sound and under "
        f"an {norm_words(NORM)} attack with ε {epsilon_words(EPSILON)}. Measured on {clips_words(seen)}; "
        f"{seeds_words(seen)}; classes are ranked by the mean over seeds. {_common(study, ranked)}"
    )
    made = Table("table-6", "Table 6: best classes", caption, tuple(columns), tuple(rows))
    about = [f"{table.source}. Not on record here: {for_readers(table.missing)}."]
    if not depth:
        about.append("The CSN has not been scored yet, so no class can be ranked.")
    return Section("table-6", f"Table 6: {table.caption}", tuple(about), (made,))


def top_classes(study: Study, facts: Mapping[int, Fact]) -> list[int]:
    """Indices of the classes with the highest AP, mean over seeds; of equals the first."""
    means = {}
    for index in range(len(study.classes)):
        values = class_values(facts, index, "mAP")
        found = mean_interval([values[seed] for seed in sorted(values)])
        if found is not None:
            means[index] = found.mean
    return sorted(means, key=lambda index: (-means[index], index))[:TOP_6]


def _common(study: Study, ranked: Sequence[Sequence[int]]) -> str:
    clean = set(ranked[0])
    said = [
        f"{len(clean & set(order))} of {len(clean)} ({variant.words})"
        for variant, order in zip(VARIANTS, ranked[1:], strict=True)
        if order and clean
    ]
    return f"Of the clean list's classes these stay in the list: {'; '.join(said)}." if said else ""
