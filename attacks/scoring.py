"""Scores of a split under many conditions: each clip is read once for as many of them as fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attacks.conditions import Condition
from models.evaluation import evaluating, metrics_over
from models.metrics import Metrics
from models.ranks import Ranks
from models.recogniser import Recogniser
from stores.split_reader import SplitReader

SCORES_AT_ONCE = 250_000_000  # float32: 1 GB


@dataclass(frozen=True, eq=False)
class Scored:
    """This rank's clips under one condition: float32 scores [n, C], with their keys and bool targets [n, C]."""

    condition: Condition
    keys: list[str]
    scores: np.ndarray
    targets: np.ndarray


def score_split(
    model: Recogniser,
    split: SplitReader,
    conditions: Sequence[Condition],
    group: int,
    seed: int,
    autocast: torch.dtype | None = None,
) -> Iterator[Scored]:
    """Scores this rank's share of a split, condition by condition in the order given.

    Args:
        group: clips that go through the model at once.
        seed: of the shuffle that gives clips the sounds of others.
    """
    size = max(1, len(split.snapshot) * split.snapshot.class_count)
    at_once = max(1, SCORES_AT_ONCE // size)
    for first in range(0, len(conditions), at_once):
        yield from _scored(model, split, conditions[first : first + at_once], group, seed, autocast)


def _scored(
    model: Recogniser,
    split: SplitReader,
    conditions: Sequence[Condition],
    group: int,
    seed: int,
    autocast: torch.dtype | None,
) -> list[Scored]:
    deltas = [
        None if item.delta is None else torch.from_numpy(item.delta).to(split.device, split.dtype)
        for item in conditions
    ]
    classes = split.snapshot.class_count
    keys: list[str] = []
    targets = [np.empty((0, classes), bool)]
    found: list[list[np.ndarray]] = [[np.empty((0, classes), np.float32)] for _ in conditions]
    others = _sounds_of_others(split, group, seed) if any(item.sound == "shuffled" for item in conditions) else None
    with evaluating(model), torch.inference_mode():
        for names, inputs, truth in split.once(group):
            keys += names
            targets.append(truth)
            other = None if others is None else next(others)[: len(names)]
            with torch.autocast(split.device.type, dtype=autocast, enabled=autocast is not None):
                state = model.encode_video(inputs.get("video"))
                for scores, item, delta in zip(found, conditions, deltas, strict=True):
                    scores.append(_scores(model, item, inputs.get("logmel"), other, delta, state).float().cpu().numpy())
    if others is not None:
        others.close()
    truth = np.concatenate(targets)
    return [Scored(item, keys, np.concatenate(scores), truth) for item, scores in zip(conditions, found, strict=True)]


def _scores(
    model: Recogniser,
    item: Condition,
    own: Tensor | None,
    other: Tensor | None,
    delta: Tensor | None,
    state: Tensor | None,
) -> Tensor:
    if item.sound == "branch":
        assert state is not None
        return state
    logmel = {"own": own, "shuffled": other, "silent": None if own is None else torch.zeros_like(own)}[item.sound]
    if delta is not None:
        assert logmel is not None
        logmel = logmel + delta
    return model.forward_audio(logmel, state)


def _sounds_of_others(split: SplitReader, group: int, seed: int) -> Any:
    """Log-mels in a shuffled order, in batches like the split's own; it has no end."""

    def sounds() -> Iterator[Tensor]:
        _, groups = split.groups("uniform", group, seed, None)
        with closing(groups):
            for item in groups:
                # Short only where clips are left out; a batch of the split needs all rows.
                if len(item.targets) == group:
                    yield item.inputs["logmel"]

    return sounds()


def metrics_of(ranks: Ranks, scored: Scored) -> Metrics:
    """Of all ranks' clips under one condition. Raises ValueError for NaN scores."""
    return metrics_over(ranks, scored.scores, scored.targets)


def constant_share(ranks: Ranks, clean: np.ndarray, attacked: np.ndarray) -> float:
    """How much of a perturbation's change of the scores is one constant per class, which no ranking metric sees.

    1 − Σ (Δ − mean of Δ over clips)² / Σ Δ², over the clips of all ranks; NaN where nothing changed.

    Args:
        clean, attacked: this rank's scores [n, C], float.
    """
    change = attacked.astype(np.float64) - clean
    parts = ranks.gather((change.sum(0), np.square(change).sum(0), len(change)))
    total, squares = (np.sum([part[i] for part in parts], axis=0) for i in (0, 1))
    clips = sum(part[2] for part in parts)
    everything = float(squares.sum())
    return float((np.square(total) / clips).sum() / everything) if everything and clips else float("nan")
