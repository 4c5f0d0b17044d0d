"""A study as commands: which there are, what each needs first, and which are done."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.study_config import AttackPlan, ModelPlan, Study
from stores.job_folder import JobFolder
from stores.storage import Storage

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Task:
    """One command of a study.

    Attributes:
        id: for people.
        argv: the command.
        folder: of its results, within the study's; it is done when its `summary.json` is there.
        needs: folders whose tasks must be done before.
    """

    id: str
    argv: tuple[str, ...]
    folder: str
    needs: tuple[str, ...] = ()


class StudyTasks:
    """The commands of a study in a folder.

    Args:
        study: what is wanted.
        store: the feature store, absolute.
        out: the study's folder, absolute.
        job_flags: for every command: workers, GPU and the like.
    """

    def __init__(self, study: Study, store: str, out: str, job_flags: Sequence[str] = ()) -> None:
        self.study, self.store, self.out, self.job_flags = study, store, out.rstrip("/"), tuple(job_flags)
        self.storage = Storage(self.out)

    def tasks(self) -> list[Task]:
        """All that can be named now, in an order that respects their needs.

        What depends on which seed is best is named when all seeds of that model are trained.
        """
        made = [*self._trainings(), *self._attacks()]
        return [*made, *self._evaluations({task.folder for task in made})]

    def expected(self) -> int:
        """How many tasks there will be in the end."""
        hearing, seeds = self._hearing(), len(self.study.seeds)
        attacks = sum(
            len([plan for plan in hearing if self._wanted(attack, plan)]) * (1 if attack.best_seed else seeds)
            for attack in self.study.attacks
        )
        evaluations = (1 + self.study.gap) * len(hearing) * seeds + bool(self.study.transfer)
        return len(self.study.models) * seeds + attacks + evaluations

    def done(self, task: Task) -> bool:
        """Whether its results are there."""
        return self.storage.size(f"{task.folder}/summary.json") is not None

    def _trainings(self) -> Iterator[Task]:
        study = self.study
        for plan in study.models:
            for seed in study.seeds:
                flags = ["--model", plan.model, "--seed", str(seed), *study.train_flags, *plan.flags]
                flags += self._splits("--train-split", "train") + self._splits("--valid-split", "valid")
                yield self._task(f"train {plan.name}-s{seed}", "pipeline/train.py", f"runs/{plan.name}-s{seed}", flags)

    def _attacks(self) -> Iterator[Task]:
        for attack in self.study.attacks:
            for plan in self._hearing():
                if not self._wanted(attack, plan):
                    continue
                for seed in self._seeds(attack, plan):
                    run = f"{plan.name}-s{seed}"
                    flags = ["--checkpoint", f"{self.out}/runs/{run}/best.pt", *self.study.attack_flags, *attack.flags]
                    flags += self._splits("--fit-split", "fit") + self._splits("--select-split", "select")
                    folder = f"attacks/{run}/{attack.name}"
                    needs = (f"runs/{run}",)
                    yield self._task(f"attack {attack.name} {run}", "attacks/universal_pgd.py", folder, flags, needs)

    def _evaluations(self, folders: set[str]) -> Iterator[Task]:
        """Of each model on the report split, and without noise on the fit split; and of all under each other's."""
        for plan in self._hearing():
            for seed in self.study.seeds:
                run = f"{plan.name}-s{seed}"
                attacks = [f"attacks/{run}/{attack.name}" for attack in self.study.attacks]
                attacks = [folder for folder in attacks if folder in folders]
                undecided = any(
                    attack.best_seed and self._wanted(attack, plan) and not self._seeds(attack, plan)
                    for attack in self.study.attacks
                )
                if not undecided:
                    yield self._evaluation(run, [run], attacks, plan.sees, "report", ())
                    if self.study.gap:
                        yield self._evaluation(f"fit-{run}", [run], attacks, False, "fit", ("--noise-draws", "0"))
        if self.study.transfer:
            runs = [f"{plan.name}-s{self.study.seeds[0]}" for plan in self._hearing()]
            attacks = [f"attacks/{run}/{name}" for run in runs for name in self.study.transfer]
            attacks = [folder for folder in attacks if folder in folders]
            yield self._evaluation("transfer", runs, attacks, False, "report", ("--noise-draws", "0"))

    def _evaluation(
        self, name: str, runs: Sequence[str], attacks: Sequence[str], floor: bool, use: str, more: Sequence[str]
    ) -> Task:
        flags = [word for run in runs for word in ("--checkpoint", f"{self.out}/runs/{run}/best.pt")]
        flags += [word for folder in attacks for word in ("--attack", f"{self.out}/{folder}")]
        needs = [*(f"runs/{run}" for run in runs), *attacks]
        if floor and self.study.floor:
            run = f"{self.study.floor}-s{runs[0].rpartition('-s')[2]}"
            flags += ["--floor", f"{self.out}/runs/{run}/best.pt"]
            needs.append(f"runs/{run}")
        flags += [*self.study.evaluate_flags, *more, *self._splits("--split", use)]
        return self._task(f"evaluate {name}", "attacks/evaluate.py", f"evaluations/{name}", flags, tuple(needs))

    def _task(self, name: str, entry: str, folder: str, flags: Sequence[str], needs: tuple[str, ...] = ()) -> Task:
        where = ("--store", self.store, "--out", f"{self.out}/{folder}")
        return Task(name, (sys.executable, str(ROOT / entry), *where, *flags, *self.job_flags), folder, needs)

    def _splits(self, flag: str, use: str) -> list[str]:
        return [word for name in self.study.splits[use] for word in (flag, name)]

    def _hearing(self) -> list[ModelPlan]:
        return [plan for plan in self.study.models if plan.hears]

    def _wanted(self, attack: AttackPlan, plan: ModelPlan) -> bool:
        return not attack.models or plan.name in attack.models

    def _seeds(self, attack: AttackPlan, plan: ModelPlan) -> list[int]:
        """The seeds whose model is attacked; none while it is not known which is best."""
        if not attack.best_seed:
            return list(self.study.seeds)
        found: list[tuple[float, int]] = []
        for seed in self.study.seeds:
            summary = JobFolder(f"{self.out}/runs/{plan.name}-s{seed}").summary()
            if summary is None:
                return []
            best: dict[str, Any] = summary["best"]
            found.append((-1.0 if best["mAP"] is None else best["mAP"], -seed))
        return [-max(found)[1]]
