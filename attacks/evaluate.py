#!/usr/bin/env python
"""Entry: scores checkpoints under perturbations and their controls, on an embedded Ray or on a cluster."""

from __future__ import annotations

import logging
import sys

import ray
import tyro
from rich.console import Console

from attacks.attack import read_checkpoint
from attacks.attack_words import condition_words, evaluation_lines
from attacks.conditions import read_deltas
from attacks.evaluate_options import EvaluateOptions, absolute_paths
from attacks.evaluation import evaluate_checkpoints
from models.checkpoint import CheckpointError
from pipeline.run_progress import RunProgress
from pipeline.summary import EXIT_OK, EXIT_USAGE
from pipeline.trainer import run_job
from stores.job_folder import JobFolder
from stores.storage import StorageError


def main() -> int:
    """Scores and returns the exit code: 0 done, 2 usage, 3 it cannot go on, 130 interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console()
    try:
        options = absolute_paths(tyro.cli(EvaluateOptions, prog="evaluate.py"))
        paths = [*options.checkpoint, *([options.floor] if options.floor else [])]
        digests = [read_checkpoint(path).digest for path in paths]
        deltas = [delta.record["sha256"] for path in options.attack for delta in read_deltas(path)]
        folder = JobFolder(options.out)
        folder.claim({**options.decisive(), "checkpoints": digests, "deltas": deltas})
        ended = folder.summary()
    except (ValueError, StorageError, CheckpointError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return EXIT_USAGE
    if ended is None:
        if code := run_job("evaluate", ray.init, evaluate_checkpoints, options, RunProgress(console, condition_words)):
            return code
        ended = folder.summary()
        assert ended is not None
    for line in evaluation_lines(ended):
        console.print(line, highlight=False, soft_wrap=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
