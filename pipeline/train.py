#!/usr/bin/env python
"""Entry: from feature shards to a trained recogniser, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import logging
import sys

import ray
import tyro
from rich.console import Console

from models.checkpoint import CheckpointError
from models.registry import entry_of
from pipeline.run_folder import BEST, RunFolder
from pipeline.run_progress import RunProgress, evaluation_words
from pipeline.summary import EXIT_OK, EXIT_USAGE
from pipeline.train_options import TrainOptions, absolute_paths
from pipeline.trainer import run_job
from pipeline.training import train
from stores.layout import Store
from stores.split_reader import columns_for
from stores.storage import StorageError


def main() -> int:
    """Trains and returns the exit code: 0 done, 2 usage, 3 the run cannot go on, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console()
    try:
        options = absolute_paths(tyro.cli(TrainOptions, prog="train.py"))
        store = Store.open(options.store)
        for split in (*options.train_split, *options.valid_split):
            if store.plan_summary(split) is None:
                raise ValueError(f"{options.store} has no split {split}; `python -m stores status` lists them")
        columns = columns_for(store, entry_of(options.model).model.columns, options.columns)
        folder = RunFolder(options.out)
        folder.claim({**options.decisive(), "columns": columns})
        ended = folder.summary()
    except (ValueError, StorageError, CheckpointError) as error:
        print(f"train: {error}", file=sys.stderr)
        return EXIT_USAGE
    if ended is None:
        if code := run_job("train", ray.init, train, options, RunProgress(console, evaluation_words, options.steps)):
            return code
        ended = folder.summary()
        assert ended is not None
    best = ended["best"]
    numbers = {name: best[name] for name in ("mAP", "AUC", "d_prime")}
    shown = ", ".join(f"{name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in numbers.items())
    console.print(f"{ended['steps']} steps; best after {best['step']}: {shown}", highlight=False, soft_wrap=True)
    for file, reason in ended["quarantined"].items():
        console.print(f"left out: {file}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"{folder.storage.url(BEST)}", highlight=False, soft_wrap=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
