"""The paper's three conclusions, in words: what this store says of each, with intervals over seeds.

A comparison is decided when the 95 % t-interval of its differences, paired by seed, does not hold 0; with one seed
none is. Conclusion 1 is told twice: by the attacked mAP, as the paper has it, and by how much of what the sound adds
to the picture survives, because a fusion model cannot fall below what the picture alone gives (RECIPE.md 5, controls).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from attacks.document import Verdict, VerdictWord, fixed, interval_text
from attacks.facts import FUSIONS, VARIANTS, Entry, Fact, Study, Variant, drops, floor_of, kept_shares, values_of
from attacks.intervals import mean_interval, paired_difference
from attacks.masks import Mask
from attacks.norms import Norm
from attacks.paper_tables import CONCLUSIONS, FREQ_BANDS, TIME_HALVES
from attacks.tables import MODEL_WORDS, entries_of, epsilon_words, for_readers, norm_words, region_words

NORM: Norm = "2"
EPSILON = 0.3
MODULES = ("resnet50", "crnn", "csn")
UNKNOWN = "The paper's answer is not on record here."
Values = Mapping[str, Mapping[int, float]]  # by name, then by seed


def conclusions(study: Study) -> tuple[Verdict, ...]:
    """A verdict on each of the three."""
    return _first(study), _second(study), _third(study)


# ---------------------------------------------------------------- 1: where fusion happens


def _first(study: Study) -> Verdict:
    conclusion = CONCLUSIONS[0]
    findings: list[str] = []
    decided: list[VerdictWord] = []
    entries = {MODEL_WORDS[entry.model]: entry for entry in entries_of(study, FUSIONS)}
    lacking = [MODEL_WORDS[model] for model in FUSIONS if MODEL_WORDS[model] not in entries]
    gaps = [f"not in this store: {', '.join(lacking)}"] if lacking else []
    late = MODEL_WORDS["late"]
    for variant in VARIANTS:
        scores = {name: values_of(_attacked(study, entry, variant)) for name, entry in entries.items()}
        scores = {name: found for name, found in scores.items() if found}
        if late not in scores:
            continue
        kept = {name: found for name in scores if (found := _kept(study, entries[name], variant))}
        by_score, by_share = rank_of(late, scores), rank_of(late, kept)
        findings.append(f"{_setting(variant)}: attacked mAP: {listing(scores)}. {by_score[1]}")
        shares = listing(kept, 2) if kept else "not known, for want of a floor"
        findings.append(f"{_setting(variant)}: share kept above the video-only floor: {shares}. {by_share[1]}")
        unscored = [name for name in entries if name not in scores]
        gaps += [f"not attacked ({variant.words}): {', '.join(unscored)}"] if unscored else []
        floorless = [name for name in scores if name not in kept]
        gaps += [f"no share above a floor ({variant.words}): {', '.join(floorless)}"] if floorless else []
        decided.append(together(by_score[0], by_share[0]))
    word, reason = _overall(decided, gaps, len(study.seeds) < 2)
    if word == "not supported":
        reason = "Late fusion does not keep most, or only because the picture alone already gives its attacked score."
    elif word == "supported":
        reason = "Late fusion keeps most, also of what the sound adds to the picture alone."
    if not findings:
        findings.append("No attacked score of late fusion with l2, ε 0.3.")
    return Verdict(
        1, conclusion.question, _paper(conclusion.answer, conclusion.basis), word, reason, tuple(findings), ("table-1",)
    )


def together(by_score: VerdictWord, by_share: VerdictWord) -> VerdictWord:
    """Of the attacked score and the share above the floor: both must hold, and either can refute."""
    if "not supported" in (by_score, by_share):
        return "not supported"
    return "supported" if by_score == by_share == "supported" else "cannot be told here"


def rank_of(name: str, values: Values) -> tuple[VerdictWord, str]:
    """Whether one is above all others, by differences paired by seed, and each of these in words."""
    said, directions = [], []
    for other in values:
        found = paired_difference(values[name], values[other]) if other != name and name in values else None
        if found is not None:
            said.append(f"{interval_text(found, sign=True)} to {other}")
            directions.append(found.direction)
    if not said:
        return "cannot be told here", "There is nothing to compare."
    words = f"{name[0].upper()}{name[1:]} minus the others, by seed: {'; '.join(said)}."
    if "lower" in directions:
        return "not supported", words
    return ("supported" if set(directions) == {"higher"} else "cannot be told here"), words


def _overall(decided: Sequence[VerdictWord], gaps: Sequence[str], alone: bool) -> tuple[VerdictWord, str]:
    """One word for several ways of keeping δ small, and why it is no clearer one."""
    if not decided:
        return "cannot be told here", f"What it needs is missing ({'; '.join(gaps) or 'no attacked late fusion'})."
    if len(set(decided)) > 1 and {"supported", "not supported"} <= set(decided):
        return "cannot be told here", "The three ways of keeping δ small say different things."
    if set(decided) == {"supported"} and not gaps:
        return "supported", ""
    if "not supported" in decided:
        return "not supported", ""
    open_words = "with one seed no difference can be told" if alone else "some differences are not told from 0"
    why = "; ".join([*gaps, *([open_words] if "cannot be told here" in decided else [])])
    return "cannot be told here", f"{why[0].upper()}{why[1:]}."


def _attacked(study: Study, entry: Entry, variant: Variant, mask: Mask | None = None) -> dict[int, Fact]:
    return study.attacked(entry.name, variant, NORM, EPSILON, (mask or Mask()).name)


def _kept(study: Study, entry: Entry, variant: Variant) -> dict[int, float]:
    floor, _ = floor_of(study, entry)
    return kept_shares(study.by_seed(entry.name, "clean"), _attacked(study, entry, variant), floor)


# ---------------------------------------------------------------- 2: bands and stretches of time


def _second(study: Study) -> Verdict:
    conclusion = CONCLUSIONS[1]
    entry, findings = study.entry_of("csn"), []
    clean = study.by_seed(entry.name, "clean") if entry else {}
    for variant in VARIANTS if entry else ():
        assert entry is not None
        for masks in ([Mask(freq=band) for band in FREQ_BANDS], [Mask(time=half) for half in TIME_HALVES]):
            names = [region_words(mask).partition(" (")[0].replace("mel bins", "bins") for mask in masks]
            lost = {
                name: drops(clean, _attacked(study, entry, variant, mask))
                for name, mask in zip(names, masks, strict=True)
            }
            findings += _compared(f"CSN, {_setting(variant)}", lost, "costs most")
    findings = findings or ["No CSN attacked within bands or halves with l2, ε 0.3."]
    return _undecided(2, conclusion.question, conclusion.answer, conclusion.basis, findings, ("table-2", "table-3"))


# ---------------------------------------------------------------- 3: kinds of modules


def _third(study: Study) -> Verdict:
    conclusion = CONCLUSIONS[2]
    findings = []
    for variant in VARIANTS:
        lost = {}
        for entry in entries_of(study, MODULES):
            clean, attacked = study.by_seed(entry.name, "clean"), _attacked(study, entry, variant)
            lost[MODEL_WORDS[entry.model]] = drops(clean, attacked)
        findings += _compared(_setting(variant), lost, "loses most")
    lacking = [MODEL_WORDS[model] for model in MODULES if study.entry_of(model) is None]
    findings += [f"Not in this store: {', '.join(lacking)}."] if lacking else []
    return _undecided(3, conclusion.question, conclusion.answer, conclusion.basis, findings, ("table-4",))


def _compared(setting: str, lost: Values, verb: str) -> list[str]:
    """Drops of several, the largest first, and whether the largest is told from each other; nothing for fewer than
    two."""
    there = {name: found for name, found in lost.items() if found}
    if len(there) < 2:
        return []
    order = sorted(there, key=lambda name: -sum(there[name].values()) / len(there[name]))
    ordered = {name: there[name] for name in order}
    pairs = [(one, other, paired_difference(ordered[one], ordered[other])) for one, other in combinations(order, 2)]
    told = [f"{one} minus {other} {interval_text(found, sign=True)}" for one, other, found in pairs if found]
    first = [found for one, _, found in pairs if one == order[0] and found]
    clear = first and all(found.direction == "higher" for found in first)
    verdict = f"{order[0]} {verb}" if clear else f"which of {len(order)} {verb} cannot be told"
    return [f"{setting}: {verdict}. Drop of mAP: {listing(ordered)}. Differences by seed: {'; '.join(told)}."]


def _undecided(
    number: int, question: str, answer: str | None, basis: str, findings: Sequence[str], tables: tuple[str, ...]
) -> Verdict:
    reason = UNKNOWN if answer is None else "No rule is written yet for holding this answer against numbers."
    return Verdict(
        number,
        question,
        _paper(answer, basis),
        "cannot be told here",
        f"{reason} What this store shows is below.",
        tuple(findings),
        tables,
    )


# ---------------------------------------------------------------- words


def listing(values: Values, digits: int = 3) -> str:
    """`CSN 0.221 ± 0.013, CRNN 0.104 ± 0.020`."""
    said = []
    for name, found in values.items():
        interval = mean_interval([found[seed] for seed in sorted(found)])
        said.append(f"{name} {interval_text(interval, digits)}" if interval else f"{name} {fixed(0)}")
    return ", ".join(said)


def _setting(variant: Variant) -> str:
    return f"{norm_words(NORM)}, ε {epsilon_words(EPSILON)}, {variant.words}"


def _paper(answer: str | None, basis: str) -> str:
    return f"{answer or 'Not on record here.'} ({for_readers(basis)})"
