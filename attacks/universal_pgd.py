#!/usr/bin/env python
"""Entry: universal perturbations against a checkpoint, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import logging
import sys

import ray
import tyro
from rich.console import Console

from attacks.attack import attack, read_checkpoint
from attacks.attack_folder import DELTAS, AttackFolder
from attacks.attack_options import AttackOptions, absolute_paths
from attacks.attack_words import look_words, summary_lines
from models.checkpoint import CheckpointError
from pipeline.run_progress import RunProgress
from pipeline.summary import EXIT_OK, EXIT_USAGE
from pipeline.trainer import run_job
from stores.layout import Store
from stores.storage import StorageError


def main() -> int:
    """Attacks and returns the exit code: 0 done, 2 usage, 3 it cannot go on, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console()
    try:
        options = absolute_paths(tyro.cli(AttackOptions, prog="universal_pgd.py"))
        checkpoint = read_checkpoint(options.checkpoint)
        if "logmel" not in checkpoint.columns:
            raise ValueError(f"{options.checkpoint}: a model that hears nothing; perturbations are of the sound")
        store = Store.open(options.store)
        for split in (*options.fit_split, *options.select_split):
            if store.plan_summary(split) is None:
                raise ValueError(f"{options.store} has no split {split}")
        folder = AttackFolder(options.out)
        folder.claim({**options.decisive(), "checkpoint": checkpoint.digest})
        ended = folder.summary()
    except (ValueError, StorageError, CheckpointError) as error:
        print(f"universal_pgd: {error}", file=sys.stderr)
        return EXIT_USAGE
    if ended is None:
        if code := run_job("universal_pgd", ray.init, attack, options, RunProgress(console, look_words)):
            return code
        ended = folder.summary()
        assert ended is not None
    for line in summary_lines(ended):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(folder.storage.url(DELTAS), highlight=False, soft_wrap=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
