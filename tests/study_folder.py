"""A study's folder as the entries leave it, with made-up scores: for tests of the report, and for looking at it.

python tests/study_folder.py FOLDER && python attacks/report.py --study FOLDER
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from attacks.attack_folder import AttackFolder, AttackState
from attacks.attack_options import AttackOptions
from attacks.conditions import Delta, read_deltas
from attacks.evaluation import _macro, _per_class, _spread
from attacks.masks import Mask
from attacks.norms import project
from attacks.perturbation import SHAPE, Perturbation, Spec, measured
from models.chance import permutation_chance
from models.metrics import Metrics, evaluate

CLASSES = (
    ("/m/09x0r", "Speech"),
    ("/m/04rlf", "Music"),
    ("/m/0k4j", "Car"),
    ("/m/x1", "<script>alert('x')</script>"),
    ("/m/x2", 'Pipe | "quoted", and comma'),
    ("/m/x3", "Thunder & *rain*"),
    ("/m/x4", "Dog"),
    ("/m/x5", "Cat"),
    ("/m/x6", "Bell"),
    ("/m/x7", "A class with a name that goes on for longer than a chart is wide"),
    ("/m/x8", "Siren"),
    ("/m/x9", "No clip has this"),
)
CLIPS = 120
MODELS = ("csn", "crnn", "mid2", "late")
GAIN = {"csn": 1.9, "crnn": 1.7, "mid1": 2.0, "mid2": 2.2, "early": 1.8, "late": 2.1, "video": 1.0, "resnet50": 1.6}
KEEPS = {"csn": 0.35, "crnn": 0.45, "mid1": 0.5, "mid2": 0.5, "early": 0.4, "late": 0.65, "resnet50": 0.4}
STRENGTH = {("projected", "clip"): 0.6, ("projected", "frame"): 1.0, ("accumulated", "frame"): 1.15}
SPLITS = {"train": ["balanced"], "valid": ["valid"], "fit": ["balanced"], "select": ["valid"], "report": ["eval"]}


def generator(*words: object) -> np.random.Generator:
    """Random numbers that these words decide."""
    return np.random.default_rng(list(hashlib.sha256(repr(words).encode()).digest()[:8]))


def targets_of(split: str) -> np.ndarray:
    """bool [CLIPS, classes]: rarer classes towards the end, none of the last."""
    share = np.array([0.5, 0.4, 0.3, 0.25, 0.2, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05, 0.0])
    found = generator("targets", split).random((CLIPS, len(CLASSES))) < share
    found[0, :-1] = True
    return found


def scored(split: str, gain: float, *words: object) -> tuple[np.ndarray, Metrics]:
    """Scores that know the labels so well, and what they are worth."""
    targets = targets_of(split)
    scores = generator("scores", split, *words).standard_normal(targets.shape) + gain * targets
    return scores.astype(np.float32), evaluate(scores.astype(np.float32), targets)


def digest_of(run: str) -> str:
    """A checkpoint's."""
    return hashlib.sha256(f"checkpoint {run}".encode()).hexdigest()


def specs_of(model: str) -> list[Spec]:
    """What a model of the sample is attacked with."""
    ways = [("projected", "clip"), ("projected", "frame"), ("accumulated", "frame")]
    epsilons = (0.1, 0.3, 1.0) if model == "csn" else (0.1, 0.3)
    found = [Spec(*way, "bce", 0, Mask(), epsilon) for epsilon in epsilons for way in _with_norm(ways, "2")]
    found += [Spec("projected", "2", "clip", objective, 0, Mask(), 0.3) for objective in ("rank", "bounded")]
    if model == "csn":
        masks = [Mask((0, 20)), Mask((20, 40)), Mask((40, 64)), Mask(time=(0, 200)), Mask(time=(200, 400))]
        found += [Spec(*way, "bce", 0, mask, 0.3) for mask in masks for way in _with_norm(ways, "2")]
        found += [Spec(*way, "bce", 0, Mask(), 0.3) for way in _with_norm(ways, "inf")]
        found += [Spec("projected", "2", "clip", "bce", 0, Mask(), math.inf)]
    return found


def _with_norm(ways: Sequence[tuple[str, str]], norm: str) -> list[tuple[Any, Any, Any]]:
    return [(rule, norm, scope) for rule, scope in ways]


class StudyFolder:
    """Writes a study.

    Args:
        root: where.
        models: names in the registry, which are the study's names too.
        seeds: of training.
    """

    def __init__(self, root: Path, models: Sequence[str] = MODELS, seeds: Sequence[int] = (0, 1)) -> None:
        self.root, self.models, self.seeds = root, models, seeds
        self.commands: list[dict[str, Any]] = []
        root.mkdir(parents=True, exist_ok=True)
        entries = [{"name": model, "model": model} for model in models]
        plan = {"name": "sample", "seeds": list(seeds), "models": entries, "splits": SPLITS, "scale": "laptop"}
        (root / "study.json").write_text(json.dumps(plan))

    def runs(self) -> list[tuple[str, str, int]]:
        """Name, model and seed of each."""
        return [(f"{model}-s{seed}", model, seed) for model in self.models for seed in self.seeds]

    def whole(self) -> StudyFolder:
        """Everything that a study can have."""
        for run, model, _ in self.runs():
            self.train(run, model)
            self.attack(run, model)
        for run, model, _ in self.runs():
            self.evaluate(run, model)
            self.evaluate(run, model, fit=True)
        self.transfer([run for run, _, seed in self.runs() if seed == self.seeds[0]])
        self.write_commands()
        return self

    def train(self, run: str, model: str) -> None:
        """A finished training run."""
        _, metrics = scored("valid", GAIN[model], run)
        best = {name: value for name, value in metrics.as_dict().items() if name != "per_class"}
        summary = {"steps": 200, "best": {"step": 150, **best}, "quarantined": {}}
        self._summary(f"runs/{run}", summary, ["python", "pipeline/train.py", "--model", model], f"train {run}")

    def attack(self, run: str, model: str, name: str = "main", specs: Sequence[Spec] = (), steps: int = 8) -> None:
        """A finished attack, as attacks/attack_folder.py writes it (without pictures)."""
        items, history = (
            [],
            {"step": 0, "clean": {"bce": 0.21, "rank": 0.4, "bounded": 0.2}, "objectives": {}, "norms": {}},
        )
        for spec in specs or specs_of(model):
            drawn = generator("delta", run, spec.name).standard_normal(SHAPE) * spec.mask.array()
            radius = spec.epsilon if math.isfinite(spec.epsilon) else 8.0
            radius *= 4 if spec.rule == "accumulated" else 1
            delta = project(drawn * 10, spec.norm, spec.scope, radius)
            item = Perturbation(spec, delta, units=100, still=0)
            item.look(0.5 + 0.1 * radius + 0.001 * steps, steps)
            items.append(item)
            history["objectives"][spec.name] = item.best_value
            history["norms"][spec.name] = measured(delta)
        options = AttackOptions("/store", f"/study/runs/{run}/best.pt", ("balanced",), ("valid",), 0.01, "/out")
        about = {
            "options": options.decisive(),
            "checkpoint": digest_of(run),
            "model": model,
            "columns": {"logmel": "logmel-0"},
            "fit_snapshot": "snapshot balanced",
            "select_snapshot": "snapshot valid",
            "fit_clips": CLIPS,
            "select_clips": CLIPS,
            "versions": {"python": "3.11", "torch": "2.11", "avlens": "0.1.0"},
        }
        folder = f"attacks/{run}/{name}"
        # Hundreds of files, each flushed to the disk by itself, would take most of the time.
        with patch("attacks.attack_folder.draw_delta", return_value=b"PNG"), patch("stores.storage.os.fsync"):
            state = AttackState(steps, None, items, [history])
            AttackFolder(str(self.root / folder)).write_results(state, about, [])
        self._command(folder, ["python", "attacks/universal_pgd.py", "--alpha", "0.01"], f"attack {run}")

    def evaluate(self, run: str, model: str, fit: bool = False) -> None:
        """A checkpoint under its own attacks, on the report or the fit split."""
        split = "balanced" if fit else "eval"
        summary = self._evaluation([(run, model)], [run], split, 0 if fit else 20)
        folder = f"evaluations/{'fit-' if fit else ''}{run}"
        self._summary(folder, summary, ["python", "attacks/evaluate.py", "--split", split], f"evaluate {folder}")

    def transfer(self, runs: Sequence[str]) -> None:
        """Several checkpoints under the attacks of all of them."""
        found = [(run, run.rpartition("-s")[0]) for run in runs]
        summary = self._evaluation(found, runs, "eval", 2)
        self._summary("evaluations/transfer", summary, ["python", "attacks/evaluate.py"], "evaluate transfer")

    def write_commands(self) -> None:
        """commands.jsonl, with one command that failed."""
        failed = {"id": "train again", "argv": ["false"], "folder": "runs/none", "seconds": 0.5, "exit_code": 1}
        lines = [*self.commands, {**failed, "digest": None}]
        (self.root / "commands.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _evaluation(
        self, runs: Sequence[tuple[str, str]], attacked: Sequence[str], split: str, draws: int
    ) -> dict[str, Any]:
        folders = [folder for run in attacked for folder in sorted((self.root / "attacks" / run).glob("*"))]
        deltas = [delta for folder in folders for delta in read_deltas(str(folder))]
        fusion = any(model in ("early", "mid1", "mid2", "late") for _, model in runs)
        _, floor = scored(split, GAIN["video"], "floor")
        parts = [self._checkpoint(run, model, deltas, split, draws) for run, model in runs]
        return {
            "deltas": {delta.id: delta.record for delta in deltas},
            "split": [split],
            "checkpoints": parts,
            "floor": {"digest": "f" * 64, "path": "video.pt", **_macro(floor), "per_class": _per_class(floor)}
            if fusion
            else None,
            "versions": {"python": "3.11", "torch": "2.11", "avlens": "0.1.0"},
        }

    def _checkpoint(self, run: str, model: str, deltas: Sequence[Delta], split: str, draws: int) -> dict[str, Any]:
        clean, metrics = scored(split, GAIN[model], run, "clean")
        rows = [_row("clean", None, metrics, positives=metrics.positives.tolist())]
        kinds = {
            "mid1": ("shuffled", "silent"),
            "mid2": ("shuffled", "silent"),
            "late": ("shuffled", "silent", "branch"),
        }
        for kind in kinds.get(model, ()):
            rows.append(_row(kind, None, scored(split, GAIN["video"], run, kind)[1]))
        noise = {}
        for delta in deltas:
            gain = GAIN[model] * self._kept(run, model, delta, split)
            rows.append(_row("attacked", delta.id, scored(split, gain, run, delta.id)[1], constant_share=0.9))
            found = [_macro(scored(split, GAIN[model] * 0.97, run, delta.id, i)[1]) for i in range(draws)]
            noise |= {delta.id: {"draws": found, **_spread(found)}} if draws else {}
        chance = permutation_chance(clean, targets_of(split), 40, 0)
        return {
            "path": f"/study/runs/{run}/best.pt",
            "digest": digest_of(run),
            "model": {"model": model},
            "options": {},
            "step": 150,
            "valid": {"mAP": 0.5},
            "snapshot": f"snapshot {split}",
            "clips": CLIPS,
            "classes": [list(pair) for pair in CLASSES],
            "rows": rows,
            "noise": noise,
            "chance": asdict(chance),
        }

    def _kept(self, run: str, model: str, delta: Delta, split: str) -> float:
        spec = delta.spec
        own = delta.record["checkpoint"] == digest_of(run)
        size = 3.0 if math.isinf(spec.epsilon) else spec.epsilon / 0.3
        force = (1 - KEEPS[model]) * STRENGTH[spec.rule, spec.scope] * min(size, 1.3) ** 0.6
        force *= {"bce": 1.0, "rank": 1.15, "bounded": 0.9}[spec.objective] * (0.5 + 0.5 * spec.mask.array().mean())
        return max(0.0, 1 - force * (1.0 if own else 0.4) * (1.1 if split == "balanced" else 1.0))

    def _summary(self, folder: str, summary: dict[str, Any], argv: list[str], name: str) -> None:
        path = self.root / folder / "summary.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary, indent=2, sort_keys=True))
        self._command(folder, argv, name)

    def _command(self, folder: str, argv: list[str], name: str) -> None:
        digest = hashlib.sha256((self.root / folder / "summary.json").read_bytes()).hexdigest()
        line = {"id": name, "argv": [*argv, "--out", f"/study/{folder}"], "folder": folder, "seconds": 12.5}
        self.commands.append({**line, "exit_code": 0, "digest": digest})


def _row(kind: str, delta: str | None, metrics: Metrics, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "delta": delta, **_macro(metrics), "per_class": _per_class(metrics), **more}


def make_study(root: Path) -> StudyFolder:
    """Four models with two seeds, and everything that a study can have."""
    return StudyFolder(root).whole()


def make_minimal(root: Path) -> StudyFolder:
    """One model with one seed that is trained, and nothing else."""
    study = StudyFolder(root, ("csn",), (0,))
    study.train("csn-s0", "csn")
    return study


if __name__ == "__main__":
    make_study(Path(sys.argv[1]))
