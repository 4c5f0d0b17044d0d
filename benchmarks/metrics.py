"""How long do AP and AUC of every class take for a set as large as AudioSet's evaluation?

    python benchmarks/metrics.py --json benchmarks/results/metrics.json

The peer in the same run is scikit-learn, asked for every class at once (`average=None`). Scores are random logits that
know a little of the targets; the targets are as skewed as AudioSet's, from a quarter of all clips down to 60. A second
set has the same scores rounded to half logits, so that ties are everywhere. The two take turns, and each result is
compared with the other's. Seconds exclude imports; one thread.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from machine import hardware

from models.metrics import Positives, evaluate, finish, local_counts, local_positives

SEED = 0
RANKS = 8
METHODS = {
    "avlens": "models.metrics.evaluate",
    "avlens_ranks": f"the same in steps, {RANKS} ranks one after another",
    "sklearn": "scikit-learn, AP and AUC, average=None",
}
PACKAGES = ("numpy", "scikit-learn")
Scores = tuple[np.ndarray, np.ndarray]


def main(
    clips: int = 20_000,
    classes: int = 527,
    repeats: int = 5,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time both on the same scores several times, compare what they say, and print a table.

    Args:
        clips: Rows of scores.
        classes: Columns of scores.
        repeats: Runs of each method; medians count.
        json_path: Where to write the figures with the hardware and versions.
    """
    sets = {name: make_set(clips, classes, step) for name, step in (("random", None), ("tied", 0.5))}
    results = {name: compare(*made, repeats) for name, made in sets.items()}
    print(table(results, f"{clips} x {classes}, {int(sets['random'][1].sum())} positives; medians of {repeats}"))
    if json_path is not None:
        report = {
            "question": "seconds for AP and AUC of every class",
            "clips": clips,
            "classes": classes,
            "positives": int(sets["random"][1].sum()),
            "repeats": repeats,
            "hardware": hardware(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "results": results,
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def make_set(clips: int, classes: int, step: float | None) -> Scores:
    """Scores float32 [clips, classes], multiples of `step` where there is one, and targets with 2.5 labels a clip."""
    rng = np.random.default_rng(SEED)
    # Fitted to AudioSet's evaluation list: music and speech in a quarter of the clips, then 780 of 20,371 down to 59.
    share = np.maximum(0.038 * (3 / np.arange(1, classes + 1)) ** 0.7, 0.0029)
    share[:2] = 0.27
    targets = rng.random((clips, classes)) < share
    scores = rng.normal(-4, 2, (clips, classes)) + 3 * targets
    return (scores if step is None else np.round(scores / step) * step).astype(np.float32), targets


def compare(scores: np.ndarray, targets: np.ndarray, repeats: int) -> dict[str, dict[str, object]]:
    """Seconds of every method, and how far its AP and AUC are from scikit-learn's."""
    methods: dict[str, Callable[[np.ndarray, np.ndarray], Scores]] = {
        "avlens": with_avlens,
        "avlens_ranks": with_ranks,
        "sklearn": with_sklearn,
    }
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    found: dict[str, Scores] = {}
    for _ in range(repeats):
        for name, method in methods.items():
            wall, cpu = time.perf_counter(), time.process_time()
            found[name] = method(scores, targets)
            runs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    peer = runs["sklearn"]
    return {
        name: {
            "seconds": round(statistics.median(wall for wall, _ in timed), 3),
            "cpu_seconds": round(statistics.median(cpu for _, cpu in timed), 3),
            # Turn by turn, so that what else the machine does weighs on both.
            "times_as_fast": round(statistics.median(p[1] / t[1] for p, t in zip(peer, timed, strict=True)), 1),
            "largest_difference": max(
                float(np.abs(ours - theirs).max()) for ours, theirs in zip(found[name], found["sklearn"], strict=True)
            ),
            "seconds_of_every_run": [round(wall, 3) for wall, _ in timed],
        }
        for name, timed in runs.items()
    }


def with_avlens(scores: np.ndarray, targets: np.ndarray) -> Scores:
    """This project's own; AP and AUC by class."""
    metrics = evaluate(scores, targets)
    return metrics.ap, metrics.auc


def with_ranks(scores: np.ndarray, targets: np.ndarray) -> Scores:
    """The work of all ranks together, without the communication."""
    shares = list(zip(np.array_split(scores, RANKS), np.array_split(targets, RANKS), strict=True))
    positives = Positives.gather([local_positives(*share) for share in shares])
    metrics = finish(positives, np.sum([local_counts(mine, positives) for mine, _ in shares], axis=0))
    return metrics.ap, metrics.auc


def with_sklearn(scores: np.ndarray, targets: np.ndarray) -> Scores:
    """The peer; AP and AUC by class."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return average_precision_score(targets, scores, average=None), roc_auc_score(targets, scores, average=None)


def table(results: dict[str, dict[str, dict[str, object]]], title: str) -> str:
    """The results as lines of text."""
    lines = [title, f"{'':60}{'s':>8}{'cpu s':>8}{'times':>8}{'difference':>12}"]
    for name, methods in results.items():
        for method, found in methods.items():
            figures = f"{found['seconds']:>8}{found['cpu_seconds']:>8}{found['times_as_fast']:>8}"
            lines.append(f"{name + ': ' + METHODS[method]:60}{figures}{found['largest_difference']:>12.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
