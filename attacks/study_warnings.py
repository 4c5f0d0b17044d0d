"""What a reader of a study must know before believing its numbers: what is missing, shared, changed or too weak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attacks.attack_words import NOT_BETTER
from attacks.facts import Fact, Study, values_of
from stores.text import listed

FEWEST_DRAWS = 20
# Of a study's splits. A perturbation may be fitted on what the model was trained on, and be chosen on what the model
# was chosen on: nobody has seen the report split then.
MUST_DIFFER = (
    ("fit", "select"),
    ("fit", "report"),
    ("select", "report"),
    ("train", "report"),
    ("valid", "report"),
    ("train", "valid"),
)


def warnings_of(
    study: Study,
    problems: Sequence[str],
    broken: Sequence[str],
    evaluations: Mapping[str, Mapping[str, Any]],
    attacks: Mapping[str, Mapping[str, Any]],
) -> Study:
    """The study with its problems (what is missing) and warnings (what weakens what is there).

    Args:
        problems: found while reading.
        broken: those of them that are damage, and come first among the warnings.
        evaluations, attacks: summaries by folder.
    """
    warnings = [
        *broken,
        *_splits(study, evaluations, attacks),
        *_of_attacks(attacks),
        *_quarantine(study),
        *_commands(study),
        *_strength(study),
    ]
    return replace(study, problems=(*problems, *_missing(study)), warnings=tuple(dict.fromkeys(warnings)))


def _splits(
    study: Study, evaluations: Mapping[str, Mapping[str, Any]], attacks: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    found = []
    for one, other in MUST_DIFFER:
        shared = sorted(set(study.splits.get(one, ())) & set(study.splits.get(other, ())))
        if shared:
            found.append(f"{one} and {other} are the same clips, in whole or in part: both have {', '.join(shared)}")
    fitted = {found["fit_snapshot"]: folder for folder, found in attacks.items() if found.get("fit_snapshot")}
    chosen = {found["select_snapshot"]: folder for folder, found in attacks.items() if found.get("select_snapshot")}
    for folder, summary in evaluations.items():
        on_fit = folder.startswith("evaluations/fit-")
        for part in summary["checkpoints"]:
            if not on_fit and part.get("snapshot") in fitted:
                found.append(f"{folder}: attacks were fitted on the very clips that they are scored on")
            if not on_fit and part.get("snapshot") in chosen:
                found.append(f"{folder}: attacks were selected on the very clips that they are scored on")
        wanted = study.splits.get("fit" if on_fit else "report")
        if wanted and tuple(summary["split"]) != wanted:
            found.append(f"{folder}: scored on {'+'.join(summary['split'])}, the study says {'+'.join(wanted)}")
    return found


def _of_attacks(attacks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What attacks warned of, but for what `_strength` says once for all of them."""
    return [
        f"{folder}: {text}"
        for folder, found in attacks.items()
        for text in found.get("warnings", ())
        if not text.startswith(NOT_BETTER)
    ]


def _quarantine(study: Study) -> list[str]:
    silent = [item for item in study.deltas if item.record.get("still_share")]
    if not silent:
        return []
    worst = max(silent, key=lambda item: item.record["still_share"])
    share = worst.record["still_share"]
    return [
        f"{len(silent)} of {len(study.deltas)} perturbations could not take some of their steps because the gradient "
        f"was zero or not finite; the most, {share:.1%}, {worst.name} against {worst.run}"
    ]


def _commands(study: Study) -> list[str]:
    found = [
        f"the command {line.get('id')!r} ended with exit code {line['exit_code']}"
        for line in study.commands
        if line.get("exit_code")
    ]
    found += [
        f"{item.folder}/summary.json has changed since its command ended"
        for item in study.sources.values()
        if item.changed
    ]
    unknown = [folder for folder, item in study.sources.items() if item.command is None]
    if study.commands and unknown:
        found.append(f"no command is on record for {listed(unknown)}")
    return found


def _strength(study: Study) -> list[str]:
    found = []
    if len(study.seeds) < 2:
        found.append("one seed: no number has an interval, and no comparison can be decided")
    attacked = [fact for fact in study.facts if fact.kind == "attacked" and fact.place == "report"]
    few = [fact for fact in attacked if fact.noise_draws < FEWEST_DRAWS]
    if few:
        fewest = min(fact.noise_draws for fact in few)
        found.append(
            f"{len(few)} of {len(attacked)} attacked scores have fewer than {FEWEST_DRAWS} draws of noise beside them "
            f"(fewest: {fewest})"
        )
    weak = [fact for fact in attacked if not _beats_noise(fact)]
    if weak:
        named = listed([f"{fact.spec.name} on {fact.run}" for fact in weak if fact.spec], 3)
        found.append(f"{len(weak)} of {len(attacked)} attacks did no more harm than noise of their norm: {named}")
    zero = [item for item in study.deltas if not item.record["norms"]["l2"]]
    if zero:
        named = listed([f"{item.name} against {item.run}" for item in zero], 3)
        found.append(f"{len(zero)} of {len(study.deltas)} perturbations are zero, because {NOT_BETTER}: {named}")
    at_chance = [fact for fact in study.facts if fact.kind == "clean" and fact.place == "report" and _is_chance(fact)]
    if at_chance:
        runs = listed([fact.run for fact in at_chance], 6)
        found.append(f"without any attack these are no better than chance, so an attack on them says nothing: {runs}")
    without = sum(not count for count in study.positives)
    if without:
        found.append(f"{without} of {len(study.classes)} classes have no clip in the report split and count in no mean")
    return found


def _beats_noise(fact: Fact) -> bool:
    noise, value = fact.noise.get("mAP"), fact.metrics["mAP"]
    return noise is None or value is None or value < noise.low


def _is_chance(fact: Fact) -> bool:
    value = fact.metrics["mAP"]
    return fact.chance is not None and value is not None and value <= fact.chance.high


def _missing(study: Study) -> list[str]:
    """What was planned and is not there, a line for each kind."""
    planned = [f"{entry.name}-s{seed}" for entry in study.models for seed in study.seeds]
    video = {f"{entry.name}-s{seed}" for entry in study.models if entry.model == "video" for seed in study.seeds}
    trained = {run.name for run in study.runs}
    struck = {item.run for item in study.deltas}
    scored = {fact.run for fact in study.facts if fact.place == "report"}
    fitted = {fact.run for fact in study.facts if fact.place == "fit"}
    attackable = [run for run in planned if run not in video]
    found = []
    for words, wanted, have in (
        ("not trained", planned, trained),
        ("not attacked", attackable, struck),
        ("not scored on the report split", planned, scored),
        ("not scored on the fit split", attackable, fitted),
    ):
        lacking = [run for run in wanted if run not in have]
        if lacking:
            found.append(f"{words}: {listed(lacking, 12)}")
    if not any(fact.place == "transfer" for fact in study.facts):
        found.append("no evaluation of transfer between models")
    bare = [entry.name for entry in study.models if values_of(study.by_seed(entry.name, "clean")) == {}]
    return found if len(bare) < len(study.models) else [*found, "no model has been scored: there is no number to print"]
