"""A study's report, put together: the document that is written as a page, as Markdown and as CSV."""

from __future__ import annotations

from dataclasses import replace

from attacks.class_tables import class_sections
from attacks.conclusions import conclusions
from attacks.document import Document, Gallery, Points, Section, Table
from attacks.extra_tables import (
    coverage_table,
    facts_of,
    gap_table,
    objectives_table,
    released_table,
    setting_words,
    settings_of,
    steps_table,
    unbounded_table,
)
from attacks.facts import VARIANTS, Study, setting_of
from attacks.figures import class_bars, curves, gap_bars, panels, transfer_picture
from attacks.table_controls import controls_table
from attacks.tables import clips_words, seeds_words, table_sections
from attacks.transfer_table import transfer_matrix, transfer_table
from models.metrics import METRICS
from stores.storage import Storage

SCALES = {
    "demo": "Scaled to the minutes of a demo: its numbers are toys.",
    "laptop": "This study was made at a laptop's scale: small models, few clips, few steps. Its numbers show that the "
    "measurement works; they are not to be held against the paper's.",
    "full": "This study was made at the paper's scale.",
}
NORM_KEYS = tuple(f"{norm}{part}" for norm in ("l1", "l2", "linf") for part in ("", "_frame_mean", "_frame_max"))


def compose(study: Study, storage: Storage) -> Document:
    """The whole report.

    Args:
        storage: the study's folder, for the perturbations that are drawn.
    """
    clean = [fact for fact in study.facts if (fact.kind, fact.place) == ("clean", "report")]
    lead = [
        "How robust audio and audio-visual event recognisers are against universal perturbations of the sound: one "
        "array δ of 400 frames × 64 mel bins, in standard deviations of each bin, added to every clip's log-mel.",
        SCALES.get(study.scale, f"The study does not say at which scale it was made ({study.scale})."),
        f"Models: {', '.join(entry.name for entry in study.models) or 'none yet'}. Scored on {clips_words(clean)}. "
        f"Numbers over seeds are {seeds_words(clean)}.",
    ]
    return Document(
        title=f"Robustness study: {study.name}",
        lead=tuple(lead),
        warnings=study.warnings,
        verdicts=conclusions(study),
        sections=(
            Section("coverage", "What is here", (), (coverage_table(study), *_missing(study))),
            *table_sections(study),
            *class_sections(study),
            *_figures(study, storage),
            _controls(study),
            _transfer(study),
            _everything(study),
        ),
        sources=tuple(study.sources.values()),
        commands=study.commands,
        numbers=numbers(study),
    )


def _missing(study: Study) -> list[Points]:
    return [Points("What is not here", study.problems)] if study.problems else []


def _figures(study: Study, storage: Storage) -> list[Section]:
    over, bars = curves(study), class_bars(study)
    nothing = ("Nothing to draw: no model has been scored under an attack in this store.",)
    return [
        Section("figure-2", "Figure 2: what the perturbations look like", (), tuple(panels(study, storage))),
        Section("curves", "mAP over ε", () if over else nothing, tuple(over)),
        Section("classes", "Class by class", () if bars else nothing, (bars,) if bars else ()),
    ]


def _controls(study: Study) -> Section:
    gap, bars = gap_table(study), gap_bars(study)
    tables = [objectives_table(study), gap, steps_table(study), unbounded_table(study), released_table(study)]
    parts: list[Table | Gallery | Points] = []
    lacking = []
    for table in tables:
        if table.rows:
            parts += [bars, table] if table is gap and bars else [table]
        else:
            lacking.append(f"{table.title}: not in this store.")
    parts += [Points("Controls that this store lacks", tuple(lacking))] if lacking else []
    about = "What an attack's number must be held against before it means anything."
    return Section("controls", "Controls", (about,), tuple(parts))


def _transfer(study: Study) -> Section:
    parts: list[Table | Gallery] = []
    pictures = []
    for number, variant in enumerate(VARIANTS, 1):
        matrix = transfer_matrix(study, variant)
        if matrix is not None:
            parts.append(transfer_table(f"transfer-{number}", matrix))
            pictures.append(transfer_picture(f"transfer-{number}", matrix))
    if not parts:
        return Section("transfer", "Transfer between models", ("Not in this store.",))
    caption = "mAP of each model (column) under the perturbation made against each other one (row). Dark is low."
    gallery = Gallery("transfer-pictures", "Transfer between models", caption, tuple(pictures))
    return Section("transfer", "Transfer between models", (), (gallery, *parts))


def _everything(study: Study) -> Section:
    """Every attack on its own model with its controls, a table for each model."""
    tables = []
    for number, entry in enumerate(study.models, 1):
        clean, rows, seen = study.by_seed(entry.name, "clean"), [], []
        for setting in settings_of(study, entry):
            facts = facts_of(study, entry, setting)
            variant = next(item for item in VARIANTS if (item.rule, item.scope) == setting[:2])
            attack = f"{setting_words(setting).partition(';')[0]}, {setting[5]}"
            rows.append(((entry.name, attack), variant, clean, facts))
            seen += list(facts.values())
        if rows:
            table = controls_table(f"all-{number}", f"All attacks on {entry.name}", clips_words(seen), rows)
            title = f"All attacks on {entry.name}"
            tables.append(replace(table, name=f"all-{number}", title=title, folded=True))
    about = (
        "Every attack on its own model. The file numbers.csv has each run by itself, at full precision, with transfer "
        "and the fit split."
        if tables
        else "No attack has been scored in this store."
    )
    return Section("everything", "Every attack", (about,), tuple(tables))


def numbers(study: Study) -> tuple[tuple[str, ...], ...]:
    """The long table: a header, then a row for each fact; numbers in the shortest form that reads back the same."""
    header = (
        *(
            "run",
            "model",
            "seed",
            "place",
            "split",
            "clips",
            "condition",
            "made_on",
            "rule",
            "scope",
            "norm",
            "epsilon",
        ),
        *("mask", "objective", "start_seed", *METRICS, "noise_mAP_mean", "noise_mAP_low", "noise_mAP_high"),
        *("noise_draws", "chance_mAP_mean", "chance_mAP_low", "chance_mAP_high", "constant_share"),
        *(f"delta_{key}" for key in NORM_KEYS),
        *("delta_sha256", "folder", "command", "summary_sha256"),
    )
    rows = [header]
    for fact in study.facts:
        spec, source = fact.spec, study.sources[fact.source]
        which = [*setting_of(spec), spec.seed] if spec else [None] * 7
        noise, command = fact.noise.get("mAP"), (source.command or {}).get("id", "")
        values = [
            *(fact.run, fact.model, fact.seed, fact.place, fact.split, fact.clips, fact.kind, fact.made_on),
            *which,
            *(fact.metrics[name] for name in METRICS),
            *([noise.mean, noise.low, noise.high] if noise else [None] * 3),
            fact.noise_draws,
            *([fact.chance.mean, fact.chance.low, fact.chance.high] if fact.chance else [None] * 3),
            fact.constant_share,
            *(fact.norms.get(key) for key in NORM_KEYS),
            *(fact.delta_sha256, fact.source, command, source.digest),
        ]
        rows.append(tuple("" if value is None else str(value) for value in values))
    return tuple(rows)
