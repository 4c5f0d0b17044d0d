"""The report's pictures: Figure 2's panels, curves over ε, classes, transfer, fit against report."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from attacks.charts import Curve, class_chart, curve_chart, delta_chart, gap_chart, matrix_chart
from attacks.class_tables import EPSILON, NORM, class_values, classes_shown, index_of
from attacks.document import NOT_IN_STORE, Gallery, Picture, fixed
from attacks.extra_tables import facts_of, setting_words, settings_of
from attacks.facts import VARIANTS, DeltaFacts, Entry, Place, Setting, Study, Variant, drops, setting_of, values_of
from attacks.intervals import Interval, mean_interval
from attacks.norms import Norm
from attacks.paper_tables import FIGURE_2, RowKey
from attacks.perturbation import SHAPE
from attacks.tables import epsilon_words, for_readers, key_words, mask_of, norm_words, region_words
from attacks.transfer_table import Matrix
from models.chance import Band
from stores.storage import Storage

NORMS: tuple[Norm, ...] = ("2", "inf", "1")
OWN_PANELS = 4


# ---------------------------------------------------------------- Figure 2


def panels(study: Study, storage: Storage) -> list[Gallery]:
    """Figure 2: the best CSN's perturbations, a gallery for each way of keeping δ small that the store has."""
    best = study.best_run("csn")
    found = []
    for number, variant in enumerate(VARIANTS):
        keys = {key: _delta(study, best.name, variant, key) if best else None for key in FIGURE_2.panels}
        made = [(key, item, _array(storage, item)) for key, item in keys.items() if item]
        pictures = tuple(
            _panel(f"figure-2-{number + 1}-{place + 1}", key_words(key), item, array)
            for place, (key, item, array) in enumerate(made)
            if array is not None
        )
        shown = {key for key, _, array in made if array is not None}
        lacking = [key_words(key) for key in keys if key not in shown]
        missing = f" {NOT_IN_STORE.capitalize()}: {'; '.join(lacking)}." if lacking else ""
        caption = (
            f"Perturbations of {best.name if best else 'the best CSN'}, {variant.words}: what is added to every clip. "
            f"Red makes louder, blue softer. Inferred: {for_readers(FIGURE_2.inferred)}.{missing}"
        )
        if pictures or number == 0:
            found.append(Gallery(f"figure-2-{number + 1}", f"Figure 2: {variant.words}", caption, pictures))
    if best and not any(gallery.pictures for gallery in found):
        found += _own(study, storage, best.name)
    return found


def _own(study: Study, storage: Storage, run: str) -> list[Gallery]:
    """Where none of Figure 2's settings is there: what is, the largest balls first."""
    pictures: list[Picture] = []
    for item in sorted(study.deltas, key=lambda item: (-item.spec.epsilon, item.name)):
        if len(pictures) == OWN_PANELS:
            break
        array = _array(storage, item) if item.run == run else None
        if array is not None and array.any():
            words = setting_words(setting_of(item.spec))
            pictures.append(_panel(f"figure-2-own-{len(pictures) + 1}", words, item, array))
    caption = f"Perturbations of {run} in the settings that this store has: what is added to every clip."
    return [Gallery("figure-2-own", "In other settings", caption, tuple(pictures))] if pictures else []


def _delta(study: Study, run: str, variant: Variant, key: RowKey) -> DeltaFacts | None:
    wanted = (variant.rule, variant.scope, key.norm, key.epsilon, mask_of(key).name, "bce")
    found = [item for item in study.deltas if item.run == run and setting_of(item.spec) == wanted]
    return max(found, key=lambda item: (item.record["objective_on_select"], item.folder)) if found else None


def _array(storage: Storage, item: DeltaFacts) -> np.ndarray | None:
    """The perturbation's numbers; None where its file is not there or is something else."""
    try:
        data, _ = storage.read_versioned(item.array)
        array = np.load(io.BytesIO(data or b""), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
    return array if array.shape == SHAPE and np.isfinite(array).all() else None


def _panel(name: str, words: str, item: DeltaFacts, array: np.ndarray) -> Picture:
    spec, norms = item.spec, item.record["norms"]
    known = [(word, norms[at]) for at, word in (("l1", "l1"), ("l2", "l2"), ("linf", "l∞")) if at in norms]
    measured = ", ".join(f"{word} {value:.3g}" for word, value in known)
    where = region_words(spec.mask)
    alt = f"Heat map of the perturbation {item.name}: 10 seconds across, 64 mel bins up, {where}; measured {measured}."
    heading = f"{norm_words(spec.norm)}, ε {epsilon_words(spec.epsilon)}: {where.partition(' (')[0]}"
    return Picture(name, f"{words} – measured {measured}", alt, delta_chart(heading, array), "png")


# ---------------------------------------------------------------- curves over ε


def curves(study: Study) -> list[Gallery]:
    """mAP over ε, a gallery for each norm and a chart for each model."""
    found = []
    for norm in NORMS:
        pictures = tuple(_curve_pictures(study, norm))
        if pictures:
            caption = (
                f"mAP on the report split over the bound ε under {norm_words(norm)}, objective bce, everywhere in the "
                "clip. Points: mean over seeds, with its 95 % interval where there are several. Bands in a line's "
                "colour: lowest to highest of the draws of noise of the same norm. An ε per frame or accumulated is "
                "another size than the same ε over the clip: the tables have the measured norms."
            )
            found.append(Gallery(f"curves-l{norm}", f"mAP over ε, {norm_words(norm)}", caption, pictures))
    return found


def _curve_pictures(study: Study, norm: Norm) -> Iterator[Picture]:
    for number, entry in enumerate(study.models, 1):
        clean = study.by_seed(entry.name, "clean")
        start, lines = _interval(values_of(clean)), []
        for variant in VARIANTS:
            curve = _curve(study, entry, variant, norm)
            lines += [curve] if curve else []
        if start is None or not lines:
            continue
        bands = [fact.chance for fact in clean.values() if fact.chance]
        chance = _mean_band(bands)
        said = "; ".join(
            f"{line.label}: " + ", ".join(f"ε {epsilon_words(e)} → {fixed(line.means[e])}" for e in sorted(line.means))
            for line in lines
        )
        alt = f"mAP of {entry.name} over ε: clean {fixed(start.mean)}; {said}"
        alt += f"; chance {fixed(chance.mean)}." if chance else "."
        data = curve_chart(entry.name, lines, (start.mean, start.half), chance)
        yield Picture(f"curves-l{norm}-{number}", entry.name, alt, data, "svg")


def _curve(study: Study, entry: Entry, variant: Variant, norm: Norm) -> Curve | None:
    means: dict[float, float] = {}
    halves: dict[float, float] = {}
    noise: dict[float, Band] = {}
    for setting in settings_of(study, entry):
        rule, scope, this, epsilon, mask, objective = setting
        if (rule, scope, this, mask, objective) != (variant.rule, variant.scope, norm, "full", "bce"):
            continue
        facts = facts_of(study, entry, setting)
        found = _interval(values_of(facts))
        band = _mean_band([fact.noise["mAP"] for fact in facts.values() if "mAP" in fact.noise])
        if found is not None:
            means[epsilon] = found.mean
            halves |= {epsilon: found.half} if found.half is not None else {}
            noise |= {epsilon: band} if band else {}
    return Curve(variant.words, means, halves, noise) if means else None


# ---------------------------------------------------------------- classes, transfer, gap


def class_bars(study: Study) -> Gallery | None:
    """Class by class: clean and attacked AP of every model, of Table 5's classes and its attack."""
    names = classes_shown(study)
    indices = [index_of(study, name) for name in names]
    pictures = []
    for number, entry in enumerate(study.models, 1):
        clean = study.by_seed(entry.name, "clean")
        attacks = {variant.words: study.attacked(entry.name, variant, NORM, EPSILON) for variant in VARIANTS}
        attacks = {label: facts for label, facts in attacks.items() if facts}
        if not (clean and attacks and names):
            continue
        before = [_mean(class_values(clean, index, "mAP")) for index in indices]
        after = {label: [_mean(class_values(f, index, "mAP")) for index in indices] for label, f in attacks.items()}
        said = "; ".join(
            f"{name} {_said(before[i])}, attacked {', '.join(_said(after[label][i]) for label in after)}"
            for i, name in enumerate(names)
        )
        alt = f"Average precision by class of {entry.name}, clean and attacked ({', '.join(after)}): {said}."
        data = class_chart(entry.name, names, before, after)
        pictures.append(Picture(f"classes-{number}", entry.name, alt, data, "svg"))
    caption = (
        f"Average precision of Table 5's classes under {norm_words(NORM)}, ε {epsilon_words(EPSILON)}, on the report "
        "split, mean over seeds. Grey: clean."
    )
    return Gallery("classes", "Class by class", caption, tuple(pictures)) if pictures else None


def transfer_picture(name: str, matrix: Matrix) -> Picture:
    """The matrix as a heat map."""
    values = [[matrix.value(source, target) for target in matrix.names] for source in matrix.names]
    clean = [matrix.before(target) for target in matrix.names]
    title = setting_words(matrix.setting)
    alt = f"Heat map of the transfer table: mAP of {len(matrix.names)} under each other's perturbations, {title}."
    return Picture(name, title, alt, matrix_chart(title.rpartition("; ")[2], matrix.names, values, clean), "svg")


def gap_bars(study: Study) -> Gallery | None:
    """The drop on the fit split beside that on the report split, for the attack nearest to l2 with ε 0.3."""
    pictures = []
    for number, variant in enumerate(VARIANTS):
        setting = _common_setting(study, variant)
        if setting is None:
            continue
        entries = [entry for entry in study.models if facts_of(study, entry, setting, "fit")]
        found = {
            "fit split": [_drop(study, entry, setting, "fit") for entry in entries],
            "report split": [_drop(study, entry, setting, "report") for entry in entries],
        }
        names = [entry.name for entry in entries]
        drawn = [(label, i, item) for label, items in found.items() for i, item in enumerate(items) if item]
        said = "; ".join(f"{names[i]}, {label}: {fixed(item.mean)}" for label, i, item in drawn)
        title = setting_words(setting)
        data = gap_chart(variant.words, names, found)
        pictures.append(Picture(f"gap-{number + 1}", title, f"Drop of mAP, {title}: {said}.", data, "svg"))
    caption = "Drop of mAP on the fit split and on the report split, mean ± 95 % interval over seeds."
    return Gallery("gap-bars", "Fit against report", caption, tuple(pictures)) if pictures else None


def _common_setting(study: Study, variant: Variant) -> Setting | None:
    counts: dict[Setting, int] = {}
    for entry in study.models:
        for setting in settings_of(study, entry, "fit"):
            if setting[:2] == (variant.rule, variant.scope):
                counts[setting] = counts.get(setting, 0) + 1
    far = lambda item: (item[2] != "2", item[4] != "full", item[5] != "bce", abs(item[3] - 0.3), str(item))  # noqa: E731
    return min(counts, key=lambda item: (-counts[item], far(item))) if counts else None


def _drop(study: Study, entry: Entry, setting: Setting, place: Place) -> Interval | None:
    clean = study.by_seed(entry.name, "clean", place)
    return _interval(drops(clean, facts_of(study, entry, setting, place)))


def _interval(values: dict[int, float]) -> Interval | None:
    return mean_interval([values[seed] for seed in sorted(values)])


def _mean(values: dict[int, float]) -> float | None:
    found = _interval(values)
    return found.mean if found else None


def _said(value: float | None) -> str:
    return "undefined" if value is None else fixed(value)


def _mean_band(bands: list[Band]) -> Band | None:
    if not bands:
        return None
    return Band(*(sum(getattr(band, name) for band in bands) / len(bands) for name in ("mean", "low", "high")))
