"""What stands beside every attacked score: clean, noise, chance, measured norms; for fusions, what the picture alone
is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attacks.document import Cell, Table, absent, band_cell, fixed, mean_cell, plain_cell, sources_of, words
from attacks.facts import Entry, Fact, Study, Variant, drops, floor_of, kept_shares, values_of

Label = tuple[str, str]  # model and attack, in words
Row = tuple[Label, Variant, Mapping[int, Fact], Mapping[int, Fact]]  # with clean and attacked facts by seed

NORMS = (
    ("l1", "l1"),
    ("l2", "l2"),
    ("linf", "l∞"),
    ("l2_frame_mean", "l2 a frame, mean"),
    ("l2_frame_max", "l2 a frame, most"),
)


def controls_table(name: str, title: str, clips: str, rows: Sequence[Row]) -> Table:
    """For every attacked row: clean and attacked mAP, their difference by seed, noise, chance, the norms of δ."""
    columns = [
        *("Model", "Attack", "How δ is kept small", "mAP, clean", "mAP, attacked", "mAP, drop"),
        *("mAP, noise of the same norm", "mAP, chance", "same shift for every clip"),
        *(f"measured norm of δ, {word}" for _, word in NORMS),
    ]
    made = []
    for (model, attack), variant, clean, attacked in rows:
        cells = [words(model), words(attack), words(variant.words)]
        made.append((*cells, *control_cells(clean, attacked)))
    caption = (
        f"mAP on {clips}. Drop: clean minus attacked, paired by seed. Noise: mean [lowest, highest] over random draws "
        "of the δ's own norm, within its mask. Chance: the clean scores against shuffled labels, mean [95 % band]. "
        "Same shift: the share of the change of scores that is one constant per class, which mAP does not see. Norms "
        "are those of the very δ that was scored, in standard deviations of each mel bin; a range where seeds differ."
    )
    return Table(f"{name}-controls", f"{title}: controls", caption, tuple(columns), tuple(made), lead=2)


def control_cells(clean: Mapping[int, Fact], attacked: Mapping[int, Fact]) -> list[Cell]:
    """The cells of a row of controls, without its labels."""
    facts = [attacked[seed] for seed in sorted(attacked)]
    before = _clean_cell(clean)
    if not facts:
        return [before, *[absent()] * (5 + len(NORMS))]
    here = sources_of(facts)
    shares = [fact.constant_share for fact in facts if fact.constant_share is not None]
    share = f"{sum(shares) / len(shares):.0%}" if shares else ""
    return [
        before,
        mean_cell(values_of(attacked), here),
        mean_cell(drops(clean, attacked), here, sign=True),
        band_cell([fact.noise["mAP"] for fact in facts if "mAP" in fact.noise], here),
        band_cell([fact.chance for fact in clean.values() if fact.chance], sources_of(clean)),
        Cell(share, here, "number") if share else absent("not measured"),
        *(plain_cell([fact.norms[key] for fact in facts if key in fact.norms], here) for key, _ in NORMS),
    ]


def floor_table(
    study: Study, name: str, title: str, clips: str, rows: Sequence[Row], entries: Sequence[Entry | None]
) -> Table:
    """For every fusion row: what is left when the sound says nothing, and how much of what it adds survives."""
    columns = (
        *("Model", "Attack", "How δ is kept small", "mAP, clean", "mAP, attacked", "mAP, floor: picture only"),
        *("what the floor is", "mAP, sounds shuffled", "mAP, silent", "kept above the floor"),
    )
    made = []
    for ((model, attack), variant, clean, attacked), entry in zip(rows, entries, strict=True):
        floor, what = floor_of(study, entry) if entry else ({}, "")
        shuffled, silent = (study.by_seed(entry.name, kind) if entry else {} for kind in ("shuffled", "silent"))
        kept = kept_shares(clean, attacked, floor)
        here = sources_of(clean, attacked, floor)
        undefined = "not defined: clean is not above the floor" if clean and attacked and floor else "not in this store"
        made.append(
            (
                *(words(model), words(attack), words(variant.words), _clean_cell(clean), _score_cell(attacked)),
                *(_floor_cell(floor), words(what) if what else absent(), _score_cell(shuffled), _score_cell(silent)),
                mean_cell(kept, here, digits=2, missing=undefined),
            )
        )
    caption = (
        f"mAP on {clips}. A fusion model under attack can only fall to what the picture alone gives, so its attacked "
        "score is to be read above that floor. Shuffled: every clip is heard with another clip's sound. Silent: the "
        "corpus mean in every bin. Kept above the floor: (attacked − floor) ÷ (clean − floor), by seed; 1 is nothing "
        "lost, 0 is no better than without the sound."
    )
    return Table(f"{name}-floor", f"{title}: above the video-only floor", caption, columns, tuple(made), lead=2)


def _score_cell(facts: Mapping[int, Fact]) -> Cell:
    return mean_cell(values_of(facts), sources_of(facts)) if facts else absent()


def _floor_cell(floor: Mapping[int, Fact]) -> Cell:
    """A floor that was given is one model for all seeds: equal numbers of it are no spread."""
    values = {fact.metrics["mAP"] for fact in floor.values() if fact.kind == "floor"}
    only = next(iter(values)) if len(values) == 1 else None
    return _score_cell(floor) if only is None else Cell(f"{fixed(only)} (one model)", sources_of(floor), "number")


def _clean_cell(clean: Mapping[int, Fact]) -> Cell:
    return _score_cell(clean)
