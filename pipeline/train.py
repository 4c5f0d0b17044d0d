#!/usr/bin/env python
"""Entry: from feature shards to a trained recogniser, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import ray
import tyro

from models.metrics import METRICS
from models.registry import entry_of
from pipeline.job_entry import run_entry
from pipeline.run_folder import BEST, RunFolder
from pipeline.run_progress import RunProgress, evaluation_words
from pipeline.train_options import TrainOptions, absolute_paths
from pipeline.training import train
from stores.layout import Store
from stores.split_reader import columns_for


def prepare() -> tuple[TrainOptions, RunFolder]:
    """Options of the command line, and the run's folder."""
    options = absolute_paths(tyro.cli(TrainOptions, prog="train.py"))
    store = Store.open(options.store)
    store.require_splits(*options.train_split, *options.valid_split)
    columns = columns_for(store, entry_of(options.model).model.columns, options.columns)
    folder = RunFolder(options.out)
    folder.claim({**options.decisive(), "columns": columns})
    return options, folder


def closing(folder: RunFolder, summary: dict[str, Any]) -> Iterator[str]:
    """What is shown of an ended run: its best metrics, what was left out, and where the checkpoint is."""
    best = summary["best"]
    numbers = {name: best[name] for name in METRICS}
    shown = ", ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in numbers.items())
    yield f"{summary['steps']} steps; best after {best['step']}: {shown}"
    for file, reason in summary["quarantined"].items():
        yield f"left out: {file}: {reason}"
    yield folder.storage.url(BEST)


def main() -> int:
    """Trains and returns the exit code: 0 done, 2 usage, 3 the run cannot go on, 130 interrupted."""
    return run_entry(
        "train",
        ray.init,
        prepare=prepare,
        job=train,
        display=lambda console, options: RunProgress(console, evaluation_words, options.steps),
        closing=closing,
    )


if __name__ == "__main__":
    sys.exit(main())
