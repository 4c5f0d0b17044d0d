"""What a study's folder says, as facts: one for every checkpoint scored under one condition, with where it came from.

A study's models have names of their own (`csn`, `csn-wide`), and a run is a name with a seed: `csn-s0`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from attacks.norms import Norm, Scope
from attacks.objectives import Objective
from attacks.perturbation import Rule, Spec
from models.chance import Band

Place = Literal["report", "fit", "transfer"]
FUSIONS = ("early", "mid1", "mid2", "late")


@dataclass(frozen=True)
class Variant:
    """How a perturbation is kept small."""

    rule: Rule
    scope: Scope
    words: str


VARIANTS = (
    Variant("projected", "clip", "projected, ε over the clip"),
    Variant("projected", "frame", "projected, ε per frame"),
    Variant("accumulated", "frame", "accumulated, as released"),
)


@dataclass(frozen=True)
class Source:
    """A file that numbers were read from, and the command that made it.

    Attributes:
        folder: within the study; its `summary.json` is the file.
        digest: sha256 of the file as it is now.
        command: the line of `commands.jsonl` for that folder: `id`, `argv`, `seconds`, `exit_code`, `digest`; None
            where there is none.
    """

    folder: str
    digest: str
    command: Mapping[str, Any] | None = None

    @property
    def changed(self) -> bool:
        """Whether the command left another file than the one that is there now."""
        return bool(self.command and self.command.get("digest") and self.command["digest"] != self.digest)


@dataclass(frozen=True)
class Entry:
    """One of a study's models: its name in the study, and its name in `models.registry`."""

    name: str
    model: str


@dataclass(frozen=True)
class RunFacts:
    """A training run that has ended."""

    name: str
    entry: str
    seed: int
    valid: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class DeltaFacts:
    """A perturbation that an attack has made.

    Attributes:
        run: what it was made against.
        folder: the attack's, within the study.
        record: of the attack's summary: `norms`, `objective_on_select`, `best_step`, `steps`, `still_share`, …
    """

    run: str
    folder: str
    name: str
    spec: Spec
    record: Mapping[str, Any]

    @property
    def array(self) -> str:
        """Its file within the study."""
        return f"{self.folder}/deltas/{self.name}.npy"


@dataclass(frozen=True)
class Fact:
    """A checkpoint scored under one condition.

    Attributes:
        run, entry, model, seed: the checkpoint.
        place: `report` (its own attacks on the report split), `fit` (the same on the fit split), or `transfer`.
        split: as the evaluation names it.
        kind: `clean`, `attacked`, `shuffled`, `silent`, `branch`, or `floor` (a video-only checkpoint's score).
        spec, made_on: of a perturbation: which one, and the run that it was made against.
        metrics: mAP, AUC, d_prime; None where undefined.
        ap, auc: per class; None where undefined.
        noise: of each metric, mean, lowest and highest over `noise_draws` draws of noise of the same norm and mask.
        norms: measured, of the perturbation that was scored.
        chance: mAP of the clean scores for shuffled labels, with its 95 % band.
        constant_share: how much of the change of scores is one constant per class.
        select: the attack's objective on the select split, by which perturbations of several starts are told apart.
        delta_sha256: of the perturbation's file.
        source: folder of the file that it stands in.
    """

    run: str
    entry: str
    model: str
    seed: int
    place: Place
    split: str
    kind: str
    metrics: Mapping[str, float | None]
    clips: int
    source: str
    spec: Spec | None = None
    made_on: str = ""
    ap: tuple[float | None, ...] = ()
    auc: tuple[float | None, ...] = ()
    noise: Mapping[str, Band] = field(default_factory=dict)
    noise_draws: int = 0
    norms: Mapping[str, float] = field(default_factory=dict)
    chance: Band | None = None
    constant_share: float | None = None
    select: float = -math.inf
    delta_sha256: str = ""


@dataclass(frozen=True)
class Study:
    """All of a study.

    Attributes:
        models, seeds, splits, scale: as planned in `study.json`.
        classes: (mid, display name) by index; positives: clips of the report split that have the class.
        sources: by folder.
        commands: every line of `commands.jsonl`.
        problems: what is missing or odd, in words.
    """

    name: str
    scale: str
    seeds: tuple[int, ...]
    models: tuple[Entry, ...]
    splits: Mapping[str, tuple[str, ...]]
    runs: tuple[RunFacts, ...]
    deltas: tuple[DeltaFacts, ...]
    facts: tuple[Fact, ...]
    classes: tuple[tuple[str, str], ...]
    positives: tuple[int, ...]
    sources: Mapping[str, Source]
    commands: tuple[Mapping[str, Any], ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    def entry_of(self, model: str) -> Entry | None:
        """The study's model of that name in the registry: the one called so, or else the first of that kind."""
        same = [item for item in self.models if item.model == model]
        return next((item for item in same if item.name == model), same[0] if same else None)

    def by_seed(self, entry: str, kind: str, place: Place = "report") -> dict[int, Fact]:
        """The facts of a kind that is no attack, by seed."""
        return {fact.seed: fact for fact in self.facts if (fact.entry, fact.kind, fact.place) == (entry, kind, place)}

    def attacked(
        self,
        entry: str,
        variant: Variant,
        norm: Norm,
        epsilon: float,
        mask: str = "full",
        objective: Objective = "bce",
        place: Place = "report",
    ) -> dict[int, Fact]:
        """The facts of an attack on its own model, by seed; of several starts the best on the select split."""
        wanted = (variant.rule, variant.scope, norm, epsilon, mask, objective)
        found: dict[int, Fact] = {}
        for fact in self.own_attacks(entry, place):
            assert fact.spec is not None
            better = fact.seed not in found or fact.select > found[fact.seed].select
            if setting_of(fact.spec) == wanted and better:
                found[fact.seed] = fact
        return found

    def own_attacks(self, entry: str, place: Place = "report") -> Iterator[Fact]:
        """Every fact of a perturbation that was made against the run that it was tried on."""
        for fact in self.facts:
            if (fact.entry, fact.kind, fact.place) == (entry, "attacked", place) and fact.made_on == fact.run:
                yield fact

    def best_run(self, model: str) -> RunFacts | None:
        """The run of that model with the best mAP on its validation split; the first of equals."""
        entry = self.entry_of(model)
        runs = [run for run in self.runs if entry and run.entry == entry.name and run.valid.get("mAP") is not None]
        return max(runs, key=lambda run: (run.valid["mAP"], -run.seed)) if runs else None


Setting = tuple[Rule, Scope, Norm, float, str, Objective]


def setting_of(spec: Spec) -> Setting:
    """All of a spec but the seed of its start."""
    return spec.rule, spec.scope, spec.norm, spec.epsilon, spec.mask.name, spec.objective


def values_of(facts: Mapping[int, Fact], metric: str = "mAP") -> dict[int, float]:
    """A metric by seed, where it is defined."""
    found = {seed: fact.metrics.get(metric) for seed, fact in facts.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def drops(clean: Mapping[int, Fact], attacked: Mapping[int, Fact], metric: str = "mAP") -> dict[int, float]:
    """Clean minus attacked, by seed."""
    before, after = values_of(clean, metric), values_of(attacked, metric)
    return {seed: before[seed] - after[seed] for seed in sorted(before.keys() & after.keys())}


def floor_of(study: Study, entry: Entry) -> tuple[dict[int, Fact], str]:
    """What a fusion model can fall back on, by seed, and what it is: late fusion's own video branch, or else a
    video-only model, given to the evaluation or part of the study."""
    branch = study.by_seed(entry.name, "branch")
    if branch:
        return branch, "its own video branch"
    given = study.by_seed(entry.name, "floor")
    if given:
        return given, "a video-only model"
    video = study.entry_of("video")
    alone = study.by_seed(video.name, "clean") if video else {}
    return (alone, "the video-only model of the same seed") if alone else ({}, "")


def kept_shares(clean: Mapping[int, Fact], attacked: Mapping[int, Fact], floor: Mapping[int, Fact]) -> dict[int, float]:
    """(attacked − floor) / (clean − floor) of mAP by seed: 1 nothing lost, 0 no better than without the sound. Seeds
    whose clean score does not exceed the floor have none."""
    before, after, below = values_of(clean), values_of(attacked), values_of(floor)
    seeds = sorted(before.keys() & after.keys() & below.keys())
    return {
        seed: (after[seed] - below[seed]) / (before[seed] - below[seed]) for seed in seeds if before[seed] > below[seed]
    }
