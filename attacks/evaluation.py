"""Scoring checkpoints under every condition, as one rank does it. Knows torch.distributed but no Ray.

config.json                    what decides the result
parts/<checkpoint>.json        a checkpoint's results, when it is done: what a second run does not do again
scores/<checkpoint>/*.parquet  clip scores under each condition; of noise the first draw's
summary.json                   all of it, when the evaluation has ended
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from attacks.attack import open_split, read_checkpoint
from attacks.conditions import CLEAN, Condition, Delta, conditions_for, read_deltas
from attacks.evaluate_options import EvaluateOptions
from attacks.scoring import Scored, constant_share, metrics_of, score_split
from models.arithmetic import arithmetic_of
from models.chance import permutation_chance
from models.checkpoint import Checkpoint
from models.metrics import METRICS, Metrics, finite
from models.ranks import Ranks
from stores.job_folder import JobFolder
from stores.scores import ClipScores, ScoresOrigin, write_scores
from stores.split_reader import SplitReader

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


def evaluate_checkpoints(
    options: EvaluateOptions, ranks: Ranks, device: torch.device, progress: Progress = lambda _: None
) -> None:
    """Scores every checkpoint under every condition; all ranks call it alike, and the first one writes the folder.

    Args:
        progress: on the first rank, called with `checkpoint`, `condition` and `metrics` for each that is done.

    Raises:
        ValueError, StoreError, CheckpointError: store, checkpoints, perturbations and folder do not fit together.
        PeerLost: another rank is gone; calling it again goes on with the checkpoints that are not done.
    """
    folder = JobFolder(options.out)
    deltas = [delta for path in options.attack for delta in read_deltas(path)]
    if len({delta.id for delta in deltas}) != len(deltas):
        raise ValueError(
            "expected attacks with perturbations of different names, got one twice: leave one --attack out"
        )
    parts = []
    for path in options.checkpoint:
        checkpoint = read_checkpoint(path)
        name = f"parts/{checkpoint.digest[:16]}.json"
        data, _ = folder.storage.read_versioned(name)
        if data is None:
            job = _Job(options, ranks, device, folder, progress)
            found = job.run(path, checkpoint, deltas)
            data = json.dumps(found, indent=1, sort_keys=True).encode()
            if ranks.first:
                folder.storage.publish(name, data)
        parts.append(json.loads(data))
    floor = None if options.floor is None else _floor(options, ranks, device)
    if ranks.first:
        about = {"deltas": {delta.id: delta.record for delta in deltas}, "split": list(options.split)}
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "avlens": version("avlens")}
        folder.write_summary({**about, "checkpoints": parts, "floor": floor, "versions": versions})
    ranks.wait()


class _Job:
    """One checkpoint's."""

    def __init__(
        self, options: EvaluateOptions, ranks: Ranks, device: torch.device, folder: JobFolder, progress: Progress
    ) -> None:
        self.options, self.ranks, self.device, self.folder = options, ranks, device, folder
        self.progress = progress

    def run(self, path: str, checkpoint: Checkpoint, deltas: Sequence[Delta]) -> dict[str, Any]:
        """Its results, JSON."""
        split, scored = _scores(self.options, self.ranks, self.device, checkpoint, deltas)
        clean: np.ndarray | None = None
        rows: list[dict[str, Any]] = []
        draws: dict[str, list[dict[str, Any]]] = {}
        chance = None
        for item in scored:
            metrics = metrics_of(self.ranks, item)
            condition, numbers = item.condition, _macro(metrics)
            if condition.kind == "noise":
                draws.setdefault(condition.of, []).append(numbers)
            else:
                row = {
                    "kind": condition.kind,
                    "delta": condition.of or None,
                    **numbers,
                    "per_class": _per_class(metrics),
                }
                if condition.kind == CLEAN:
                    clean, chance = item.scores, self._chance(item)
                    row["positives"] = metrics.positives.tolist()
                elif condition.kind == "attacked":
                    assert clean is not None
                    row["constant_share"] = finite(constant_share(self.ranks, clean, item.scores))
                rows.append(row)
            if condition.stored:
                self._store(item, checkpoint, split)
            if self.ranks.first:
                self._tell(path, condition, numbers, draws.get(condition.of, []))
        return {
            "path": path,
            "digest": checkpoint.digest,
            "model": dict(checkpoint.model),
            "options": dict(checkpoint.options),
            "step": checkpoint.step,
            "valid": dict(checkpoint.metrics),
            "snapshot": split.snapshot.digest,
            "clips": len(split.snapshot),
            "classes": [list(pair) for pair in split.snapshot.classes],
            "rows": rows,
            "noise": {of: {"draws": found, **_spread(found)} for of, found in draws.items()},
            "chance": chance,
        }

    def _tell(self, path: str, condition: Condition, numbers: dict[str, Any], draws: list[dict[str, Any]]) -> None:
        """A line for each condition, and one for all draws of a perturbation's noise."""
        shown = condition.file
        if condition.kind == "noise":
            if len(draws) < self.options.noise_draws:
                return
            shown = f"noise of {condition.of}, {len(draws)} draws"
            numbers = {name: spread and spread["mean"] for name, spread in _spread(draws).items()}
        self.progress({"checkpoint": path, "condition": shown, "metrics": numbers})

    def _chance(self, item: Scored) -> dict[str, Any]:
        parts = self.ranks.gather((item.scores, item.targets))
        scores, targets = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        # In the order of keys, or the permutations would depend on the number of ranks.
        order = np.argsort(np.array([key for keys in self.ranks.gather(item.keys) for key in keys]))
        return asdict(permutation_chance(scores[order], targets[order], self.options.permutations, self.options.seed))

    def _store(self, item: Scored, checkpoint: Checkpoint, split: SplitReader) -> None:
        parts = self.ranks.gather_to_first((item.keys, item.scores, item.targets))
        if parts is None:
            return
        keys = [key for names, _, _ in parts for key in names]
        scores, targets = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        order = np.argsort(np.array(keys))
        noted = {"condition": item.condition.kind, "delta": item.condition.of, "seed": self.options.seed}
        snapshot = split.snapshot
        origin = ScoresOrigin(
            checkpoint.model["model"],
            checkpoint.digest,
            "+".join(self.options.split),
            snapshot.digest,
            snapshot.classes,
            noted,
        )
        clips = ClipScores([keys[i] for i in order], scores[order].astype(np.float32), targets[order], origin)
        write_scores(self.folder.storage, f"scores/{checkpoint.digest[:16]}/{item.condition.file}.parquet", clips)


def _scores(
    options: EvaluateOptions, ranks: Ranks, device: torch.device, checkpoint: Checkpoint, deltas: Sequence[Delta]
) -> tuple[SplitReader, Any]:
    """The split as the checkpoint reads it, and its scores under every condition."""
    numbers = arithmetic_of(options.precision, device)
    split = open_split(options, options.split, checkpoint, ranks, device, numbers.weights)
    model = checkpoint.build().to(device=device, dtype=numbers.weights)
    conditions = list(conditions_for(model, deltas, options.noise_draws))
    return split, score_split(model, split, conditions, options.group_size, options.seed, numbers.autocast)


def _floor(options: EvaluateOptions, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """What the video-only checkpoint scores."""
    assert options.floor is not None
    checkpoint = read_checkpoint(options.floor)
    if "logmel" in checkpoint.columns:
        raise ValueError(f"expected a video-only checkpoint for --floor, got one that hears: {options.floor}")
    _, scored = _scores(options, ranks, device, checkpoint, [])
    metrics = metrics_of(ranks, next(iter(scored)))
    return {"digest": checkpoint.digest, "path": options.floor, **_macro(metrics), "per_class": _per_class(metrics)}


def _macro(metrics: Metrics) -> dict[str, Any]:
    found = metrics.as_dict()
    return {name: found[name] for name in (*METRICS, "mAP_classes", "AUC_classes")}


def _per_class(metrics: Metrics) -> dict[str, Any]:
    found = metrics.as_dict()["per_class"]
    return {name: found[name] for name in ("AP", "AUC")}


def _spread(draws: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean of each metric over draws, and the smallest and largest."""
    found: dict[str, Any] = {}
    for name in METRICS:
        values = [draw[name] for draw in draws if draw[name] is not None]
        found[name] = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)} if values else None
    return found
