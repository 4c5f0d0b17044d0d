"""Tables that the paper does not have: objectives, transfer, fit against report, steps, no bound, released runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from attacks.document import (
    NOT_IN_STORE,
    Cell,
    Table,
    absent,
    fixed,
    mean_cell,
    plain_cell,
    sources_of,
    words,
)
from attacks.facts import VARIANTS, Entry, Fact, Place, Setting, Study, drops, setting_of, values_of
from attacks.masks import Mask
from attacks.objectives import OBJECTIVES
from attacks.paper_tables import RELEASED_REPOSITORY, RELEASED_RUNS
from attacks.tables import (
    METRIC_WORDS,
    clips_words,
    comparison,
    epsilon_words,
    key_label,
    mask_of,
    norm_words,
    region_words,
    seeds_words,
)

Facts = Mapping[int, Fact]


def settings_of(study: Study, entry: Entry, place: Place = "report") -> list[Setting]:
    """Every setting that a model was attacked with, each once, in a fixed order."""
    found = {setting_of(fact.spec) for fact in study.own_attacks(entry.name, place) if fact.spec}
    return sorted(found, key=lambda item: (item[2], item[0], item[1], item[4], item[5], item[3]))


def facts_of(study: Study, entry: Entry, setting: Setting, place: Place = "report") -> dict[int, Fact]:
    """The facts of a setting, by seed."""
    rule, scope, norm, epsilon, mask, objective = setting
    variant = next(item for item in VARIANTS if (item.rule, item.scope) == (rule, scope))
    return study.attacked(entry.name, variant, norm, epsilon, mask, objective, place)


def setting_words(setting: Setting) -> str:
    """Norm, ε, region and how δ is kept small."""
    rule, scope, norm, epsilon, mask, _ = setting
    variant = next(item for item in VARIANTS if (item.rule, item.scope) == (rule, scope))
    parts = [norm_words(norm), f"ε {epsilon_words(epsilon)}" if math.isfinite(epsilon) else "without bound"]
    parts += [region_words(Mask.of_name(mask))] if mask != "full" else []
    return f"{', '.join(parts)}; {variant.words}"


def objectives_table(study: Study) -> Table:
    """Held-out mAP by what the attack made large, at the same ε, with the ratio of drops."""
    columns = ["Model", "Attack", "mAP, clean", *(f"mAP, {objective}" for objective in OBJECTIVES)]
    columns += ["ratio of drops, rank to bce", "ratio of drops, bounded to bce"]
    rows, seen = [], []
    for entry in study.models:
        clean = study.by_seed(entry.name, "clean")
        for setting in dict.fromkeys(item[:5] for item in settings_of(study, entry)):
            found = {name: facts_of(study, entry, (*setting, name)) for name in OBJECTIVES}
            if sum(map(bool, found.values())) < 2:
                continue
            seen += [fact for facts in found.values() for fact in facts.values()]
            cells = [words(entry.name), words(setting_words((*setting, "bce"))), score_cell(clean)]
            cells += [score_cell(facts) for facts in found.values()]
            rows.append((*cells, *(_ratio(clean, found[name], found["bce"]) for name in ("rank", "bounded"))))
    caption = (
        f"mAP on {clips_words(seen)}; {seeds_words(seen)}. Where an attack was fitted or selected on these very clips, "
        "the warnings say so. bce: the paper's loss; rank: the loss of the order of clips within a class; bounded: bce "
        "with the share of every clip and class limited. Ratio: how many times the drop of bce the other objective's "
        "is, by seed; above 1 it harms more. Seeds in which bce did not lower the mAP have no ratio."
    )
    return Table("objectives", "Objectives at the same ε", caption, tuple(columns), tuple(rows), lead=1)


def _ratio(clean: Facts, other: Facts, bce: Facts) -> Cell:
    if not other or not bce:
        return absent()
    above, below = drops(clean, other), drops(clean, bce)
    found = {seed: above[seed] / below[seed] for seed in above.keys() & below.keys() if below[seed] > 0}
    return mean_cell(found, sources_of(clean, other, bce), digits=2)


def gap_table(study: Study) -> Table:
    """The drop on the clips that an attack was fitted on, against that on the report split."""
    columns = ("Model", "Attack", "objective", "drop of mAP, fit split", "drop of mAP, report split", "gap")
    rows, seen = [], []
    for entry in study.models:
        for setting in settings_of(study, entry, "fit"):
            fit, report = facts_of(study, entry, setting, "fit"), facts_of(study, entry, setting)
            fit_clean, report_clean = study.by_seed(entry.name, "clean", "fit"), study.by_seed(entry.name, "clean")
            lost, held = drops(fit_clean, fit), drops(report_clean, report)
            gap = {seed: lost[seed] - held[seed] for seed in lost.keys() & held.keys()}
            here = sources_of(fit, report)
            seen += list(fit.values())
            rows.append(
                (
                    *(words(entry.name), words(setting_words(setting)), words(setting[5])),
                    mean_cell(lost, sources_of(fit), sign=True),
                    mean_cell(held, sources_of(report), sign=True, missing=NOT_IN_STORE),
                    mean_cell(gap, here, sign=True, missing=NOT_IN_STORE),
                )
            )
    caption = (
        f"Drop of mAP (clean minus attacked, each of its own split) on {clips_words(seen)} and on the report split; "
        f"{seeds_words(seen)}. Gap: fit minus report, paired by seed; above 0 the perturbation does more harm to the "
        "clips that it was fitted on than to others."
    )
    return Table("gap", "Fit against report", caption, columns, tuple(rows), folded=len(rows) > 12, lead=1)


def steps_table(study: Study) -> Table:
    """Perturbations of one setting that were made with different numbers of steps."""
    columns = ("Run", "Attack", "objective", "steps", "best step", "objective on select", "clean", "l2 of δ")
    groups: dict[tuple[str, str], list[tuple[int, tuple[Cell, ...]]]] = {}
    for item in study.deltas:
        record, here = item.record, (item.folder,)
        cells = (
            *(words(item.run), words(setting_words(setting_of(item.spec))), words(item.spec.objective)),
            *(Cell(str(record[key]), here, "number") for key in ("steps", "best_step")),
            Cell(fixed(record["objective_on_select"], 5), here, "number"),
            Cell(fixed(record["clean_objective_on_select"], 5), here, "number"),
            plain_cell([record["norms"]["l2"]], here),
        )
        groups.setdefault((item.run, item.name), []).append((record["steps"], cells))
    several = [found for found in groups.values() if len({steps for steps, _ in found}) > 1]
    rows = [cells for found in several for _, cells in sorted(found, key=lambda pair: pair[0])]
    caption = (
        "The same attack with more steps: the objective on the select split, which the attack makes large. If twice "
        "the steps raise it much, the shorter attack had not ended its climb."
    )
    return Table("steps", "More steps", caption, columns, tuple(rows), lead=1)


def unbounded_table(study: Study) -> Table:
    """Attacks without a bound: what is left at worst."""
    columns = ("Model", "Attack", "mAP, clean", "mAP, attacked", "mAP, chance", "measured l2 of δ")
    rows, seen = [], []
    for entry in study.models:
        for setting in settings_of(study, entry):
            if math.isfinite(setting[3]) or setting[5] != "bce":
                continue
            facts, clean = facts_of(study, entry, setting), study.by_seed(entry.name, "clean")
            seen += list(facts.values())
            chance = {seed: fact.chance.mean for seed, fact in clean.items() if fact.chance}
            rows.append(
                (
                    *(words(entry.name), words(setting_words(setting)), score_cell(clean), score_cell(facts)),
                    mean_cell(chance, sources_of(clean)),
                    plain_cell([fact.norms["l2"] for fact in facts.values()], sources_of(facts)),
                )
            )
    caption = (
        f"mAP on {clips_words(seen)} when δ may be of any size; {seeds_words(seen)}. A model of the sound alone should "
        "fall to chance, late fusion to its video branch; where it does not, the attack is too weak, and so are its "
        "smaller ones."
    )
    return Table("unbounded", "Attacks without a bound", caption, columns, tuple(rows), lead=1)


def released_table(study: Study) -> Table:
    """Outputs that stand in the authors' released notebooks, beside ours."""
    columns = ["Model", "Attack", "How δ is kept small"]
    for word in METRIC_WORDS.values():
        columns += [f"{word}, notebook", f"{word}, ours", f"{word}, difference"]
    rows, seen, notes = [], [], []
    for run in RELEASED_RUNS:
        key, entry = run.row.key, study.entry_of(run.row.key.model)
        facts = study.by_seed(entry.name, "clean") if entry else {}
        if entry and key.norm and key.epsilon:
            facts = study.attacked(entry.name, VARIANTS[2], key.norm, key.epsilon, mask_of(key).name)  # type: ignore[arg-type]
        seen += list(facts.values())
        cells = [*map(words, key_label(key)), words(VARIANTS[2].words if key.norm else "–")]
        for metric in METRIC_WORDS:
            cells += comparison(run.row.values[metric], values_of(facts, metric), sources_of(facts), bool(facts))
        rows.append(tuple(cells))
        about = f"; {run.row.note}" if run.row.note else ""
        notes.append(f"{key_label(key)[0]}: {run.notebook}, commit {run.commit[:12]}{about}.")
    caption = (
        f"Not the paper's numbers: results in notebooks of {RELEASED_REPOSITORY}, first committed after publication, "
        f"scored on 20,098 clips of AudioSet's evaluation list. Ours on {clips_words(seen)}; {seeds_words(seen)}."
    )
    title = "The authors' released notebooks"
    return Table("released", title, caption, tuple(columns), tuple(rows), tuple(notes), folded=True)


def coverage_table(study: Study) -> Table:
    """Which runs are there, and how far they have come."""
    rows = []
    made = {run.name: run for run in study.runs}
    for entry, name in _planned(study):
        run, facts = made.get(name), [fact for fact in study.facts if fact.run == name]
        clean = [fact for fact in facts if (fact.kind, fact.place) == ("clean", "report")]
        deltas = [item for item in study.deltas if item.run == name]
        folders = tuple(dict.fromkeys(item.folder for item in deltas))
        valid = run.valid.get("mAP") if run else None
        rows.append(
            (
                *(words(name), words(entry.model)),
                Cell(fixed(valid), (run.source,), "number") if run and valid is not None else absent(),
                Cell(str(run.valid.get("step", "")), (run.source,), "number") if run else absent(),
                score_cell({fact.seed: fact for fact in clean}, one=True),
                Cell(str(len(deltas)), folders, "number") if deltas else absent("none"),
                *(_count(facts, place) for place in ("report", "fit", "transfer")),
            )
        )
    columns = ["Run", "model", "validation mAP", "best step", "mAP, clean, report split", "perturbations made"]
    columns += ["attacks scored, report split", "attacks scored, fit split", "attacks scored, transfer"]
    caption = "What this study has by now. A run is a model with a seed; its best checkpoint by validation mAP is used."
    return Table("coverage", "What is here", caption, tuple(columns), tuple(rows))


def _planned(study: Study) -> Iterator[tuple[Entry, str]]:
    for entry in study.models:
        for seed in study.seeds:
            yield entry, f"{entry.name}-s{seed}"


def _count(facts: Sequence[Fact], place: str) -> Cell:
    found = [fact for fact in facts if fact.kind == "attacked" and fact.place == place]
    return Cell(str(len(found)), sources_of(found), "number") if found else absent("none")


def score_cell(facts: Facts, one: bool = False) -> Cell:
    """mAP over seeds; of one run where `one`, without words on intervals."""
    if not facts:
        return absent()
    if one:
        value = next(iter(facts.values())).metrics["mAP"]
        return absent("not defined") if value is None else Cell(fixed(value), sources_of(facts), "number")
    return mean_cell(values_of(facts), sources_of(facts))
