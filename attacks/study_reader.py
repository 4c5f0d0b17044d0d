"""Reads a study's folder. Whatever is missing or damaged is said in words, and the rest is read.

study.json                                      name, seeds, models, splits, scale
runs/<run>/summary.json                         a training run
attacks/<run>/<attack>/summary.json             an attack on it, with deltas/<name>.npy
evaluations/<run>/summary.json                  the run under its own attacks, on the report split
evaluations/fit-<run>/summary.json              the same on the fit split
evaluations/transfer/summary.json               several runs under the attacks of all of them
commands.jsonl                                  what was run: id, argv, folder, seconds, exit_code, digest
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attacks.facts import DeltaFacts, Entry, Fact, Place, RunFacts, Source, Study
from attacks.perturbation import Spec
from attacks.study_warnings import warnings_of
from models.chance import Band
from models.metrics import METRICS
from stores.storage import Storage

_WRONG = (ValueError, LookupError, TypeError, AttributeError)  # what files of another form come up with


def read_study(storage: Storage) -> Study:
    """All that the folder has.

    Raises:
        ValueError: there is nothing of a study in it.
        StorageError: the backend failed.
    """
    return _Reading(storage).study()


class _Reading:
    """One pass over the folder."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.problems: list[str] = []
        self.broken: list[str] = []  # of these, what a reader must know before all else
        self.sources: dict[str, Source] = {}
        self.runs: list[RunFacts] = []
        self.deltas: list[DeltaFacts] = []
        self.facts: list[Fact] = []
        self.run_of_digest: dict[str, str] = {}
        self.classes: tuple[tuple[str, str], ...] = ()
        self.positives: tuple[int, ...] = ()
        self.evaluations: dict[str, Mapping[str, Any]] = {}
        self.attack_summaries: dict[str, Mapping[str, Any]] = {}

    def study(self) -> Study:
        commands = self._commands()
        self.by_folder = {str(line["folder"]): line for line in commands if "folder" in line}
        folders = {top: self._folders(top) for top in ("runs", "attacks", "evaluations")}
        plan = self._plan(any(folders.values()))
        self._describe(plan, folders)
        for folder in folders["runs"]:
            self._each(folder, self._run)
        for folder in folders["attacks"]:
            for attack in self._folders(folder):
                self._each(attack, self._attack)
        own = [name for name in folders["evaluations"] if name.rpartition("/")[2] != "transfer"]
        read = {folder: found for folder in own if (found := self._summary(folder)) is not None}
        # A checkpoint's run is known by the folder of its evaluation: needed before any perturbation is told whose.
        for take in (self._know, self._evaluation):
            for folder, found in read.items():
                self._guard(folder, take, found)
        if "evaluations/transfer" in folders["evaluations"]:
            self._each("evaluations/transfer", self._evaluation)
        study = Study(
            self.name,
            self.scale,
            self.seeds,
            self.models,
            self.splits,
            tuple(sorted(self.runs, key=lambda run: (run.entry, run.seed))),
            tuple(self.deltas),
            tuple(self.facts),
            self.classes,
            self.positives,
            self.sources,
            tuple(commands),
            (),
            (),
        )
        return warnings_of(study, self.problems, self.broken, self.evaluations, self.attack_summaries)

    def _broken(self, words: str) -> None:
        if words not in self.broken:
            self.broken.append(words)
            self.problems.append(words)

    # ---------------------------------------------------------------- files

    def _folders(self, top: str) -> list[str]:
        return [entry.name for entry in self.storage.list(top) if entry.size < 0]

    def _summary(self, folder: str) -> Any:
        data, _ = self.storage.read_versioned(f"{folder}/summary.json")
        if data is None:
            self.problems.append(f"{folder} has not ended: it has no summary.json")
            return None
        self.sources[folder] = Source(folder, hashlib.sha256(data).hexdigest(), self.by_folder.get(folder))
        try:
            return json.loads(data)
        except ValueError as error:
            self._broken(f"{folder}/summary.json is damaged and was left out: {error}")
            return None

    def _each(self, folder: str, take: Callable[[str, Any], None]) -> None:
        found = self._summary(folder)
        if found is not None:
            self._guard(folder, take, found)

    def _guard(self, folder: str, take: Callable[[str, Any], None], found: Any) -> None:
        try:
            take(folder, found)
        except _WRONG as error:
            what = f"{type(error).__name__}: {error}"
            self._broken(f"{folder}/summary.json is not of the expected form and was left out ({what})")

    def _commands(self) -> list[Mapping[str, Any]]:
        data, _ = self.storage.read_versioned("commands.jsonl")
        found: list[Mapping[str, Any]] = []
        for number, line in enumerate((data or b"").decode(errors="replace").splitlines(), 1):
            try:
                parsed = json.loads(line) if line.strip() else {}
            except ValueError:
                parsed = None
            if not isinstance(parsed, dict):
                self._broken(f"commands.jsonl: line {number} is damaged and was left out")
            elif parsed:
                found.append(parsed)
        if data is None:
            self.problems.append("commands.jsonl is not there: numbers are linked to files, but to no command")
        return found

    # ---------------------------------------------------------------- what was planned

    def _plan(self, anything: bool) -> Mapping[str, Any]:
        data, _ = self.storage.read_versioned("study.json")
        try:
            plan = json.loads(data or b"")
        except ValueError:
            plan = None
        if isinstance(plan, dict):
            return plan
        if not anything:
            has = "no study.json" if data is None else "a damaged study.json"
            raise ValueError(f"expected a study's folder at {self.storage.uri}: it has {has} and no result")
        words = "models and seeds are those of the folders that were found"
        if data is None:
            self.problems.append(f"study.json is not there: {words}")
        else:
            self._broken(f"study.json is damaged: {words}")
        return {}

    def _describe(self, plan: Mapping[str, Any], folders: Mapping[str, Sequence[str]]) -> None:
        found = [parsed for top in ("runs", "attacks") for folder in folders[top] if (parsed := run_name(folder))]
        found += [parsed for folder in folders["evaluations"] if (parsed := run_name(folder)) and not is_fit(folder)]
        self.name, self.scale = str(plan.get("name", "study")), str(plan.get("scale", "unknown"))
        try:
            self.models = tuple(Entry(str(item["name"]), str(item["model"])) for item in plan.get("models", ()))
            self.seeds = tuple(int(seed) for seed in plan.get("seeds", ()))
            self.splits = {str(role): tuple(map(str, names)) for role, names in plan.get("splits", {}).items()}
        except _WRONG as error:
            self._broken(f"study.json is not of the expected form: {type(error).__name__}: {error}")
            self.models, self.seeds, self.splits = (), (), {}
        known = {item.name for item in self.models}
        more = dict.fromkeys(name for name, _ in found if name not in known)
        if known and more:
            self.problems.append(f"study.json does not name these models, which were found: {', '.join(more)}")
        self.models += tuple(Entry(name, name) for name in more)
        self.seeds = tuple(sorted({*self.seeds, *(seed for _, seed in found)}))
        self.model_of = {item.name: item.model for item in self.models}

    # ---------------------------------------------------------------- results

    def _run(self, folder: str, summary: Mapping[str, Any]) -> None:
        name = folder.rpartition("/")[2]
        entry, seed = _required(folder)
        self.runs.append(RunFacts(name, entry, seed, dict(summary["best"]), folder))

    def _attack(self, folder: str, summary: Mapping[str, Any]) -> None:
        run = folder.split("/")[1]
        _required(f"attacks/{run}")
        made = [_delta(run, folder, item) for item in summary["perturbations"]]
        self.attack_summaries[folder] = summary
        self.run_of_digest[str(summary["checkpoint"])] = run
        self.deltas += made

    def _know(self, folder: str, summary: Mapping[str, Any]) -> None:
        run = folder.rpartition("/")[2]
        for part in summary["checkpoints"]:
            self.run_of_digest.setdefault(str(part["digest"]), run.removeprefix("fit-") if is_fit(folder) else run)

    def _evaluation(self, folder: str, summary: Mapping[str, Any]) -> None:
        place: Place = "transfer" if folder.endswith("/transfer") else "fit" if is_fit(folder) else "report"
        found, split = [], "+".join(summary["split"])
        for part in summary["checkpoints"]:
            run = self.run_of_digest.get(part["digest"], "") if place == "transfer" else _run_of(folder)
            if not run:
                self._broken(f"{folder}: no run of this study has checkpoint {part['digest'][:12]}: left out")
                continue
            entry, seed = _required(f"runs/{run}")
            about: dict[str, Any] = {"run": run, "entry": entry, "model": self.model_of.get(entry, entry)}
            about |= {"seed": seed, "place": place, "split": split, "source": folder}
            about["clips"] = int(part["clips"])
            found += [self._fact(about, part, row, summary["deltas"]) for row in part["rows"]]
            if place == "report":
                self._note_classes(folder, part)
                floor = summary["floor"]
                found += [Fact(**about, kind="floor", metrics=_metrics(floor), **_classes(floor))] if floor else []
            if any(len(fact.ap) != len(self.classes) for fact in found if place == "report"):
                raise ValueError("per-class numbers of another length than the class list")
        self.facts += found
        self.evaluations[folder] = summary

    def _fact(
        self, about: dict[str, Any], part: Mapping[str, Any], row: Mapping[str, Any], deltas: Mapping[str, Any]
    ) -> Fact:
        chance = Band(**part["chance"]["mean_ap"]) if part.get("chance") else None
        common = {**about, "kind": row["kind"], "metrics": _metrics(row), "chance": chance, **_classes(row)}
        if not row["delta"]:
            return Fact(**common)
        record, noise = deltas[row["delta"]], part["noise"].get(row["delta"], {})
        return Fact(
            **common,
            spec=Spec.from_dict(record),
            made_on=self.run_of_digest.get(str(record["checkpoint"]), ""),
            noise={name: Band(**noise[name]) for name in METRICS if noise.get(name)},
            noise_draws=len(noise.get("draws", ())),
            norms=dict(record["norms"]),
            constant_share=row.get("constant_share"),
            select=float(record["objective_on_select"]),
            delta_sha256=str(record.get("sha256", "")),
        )

    def _note_classes(self, folder: str, part: Mapping[str, Any]) -> None:
        classes = tuple((str(mid), str(name)) for mid, name in part["classes"])
        clean = next(row for row in part["rows"] if row["kind"] == "clean")
        positives = tuple(int(count) for count in clean["positives"])
        if not self.classes:
            self.classes, self.positives = classes, positives
        elif self.classes != classes:
            raise ValueError("another class list than that of the evaluations before it")
        elif self.positives != positives:
            self._broken(f"{folder} was scored on other clips than the evaluations before it")


def run_name(folder: str) -> tuple[str, int] | None:
    """Model's name and seed of a folder such as `runs/csn-s0`; None for other names."""
    match = re.fullmatch(r"(?:.*/)?(.+)-s(\d{1,9})", folder)
    return (match[1], int(match[2])) if match else None


def is_fit(folder: str) -> bool:
    """Whether it is an evaluation on the fit split."""
    return folder.startswith("evaluations/fit-")


def _required(folder: str) -> tuple[str, int]:
    found = run_name(folder)
    if found is None:
        raise ValueError(f"expected a folder named <model>-s<seed>, got {folder}")
    return found


def _run_of(folder: str) -> str:
    name = folder.rpartition("/")[2]
    return name.removeprefix("fit-") if is_fit(folder) else name


def _metrics(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if row[name] is None else float(row[name]) for name in METRICS}


def _classes(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"ap": tuple(row["per_class"]["AP"]), "auc": tuple(row["per_class"]["AUC"])}


def _delta(run: str, folder: str, record: Mapping[str, Any]) -> DeltaFacts:
    """A perturbation, if its record has all that is read of it."""
    for name in ("name", "norms", "steps", "best_step", "objective_on_select", "clean_objective_on_select"):
        if record[name] is None:
            raise ValueError(f"{name} is null")
    if "l2" not in record["norms"]:
        raise ValueError("its norms lack l2")
    return DeltaFacts(run, folder, str(record["name"]), Spec.from_dict(dict(record)), record)
