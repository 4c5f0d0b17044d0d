#!/usr/bin/env python
"""Entry: scores checkpoints under perturbations and their controls, on an embedded Ray or on a cluster."""

from __future__ import annotations

import sys

import ray
import tyro

from attacks.attack import read_checkpoint
from attacks.attack_words import condition_words, evaluation_lines
from attacks.conditions import read_deltas
from attacks.evaluate_options import EvaluateOptions, absolute_paths
from attacks.evaluation import evaluate_checkpoints
from pipeline.job_entry import run_entry
from pipeline.run_progress import RunProgress
from stores.job_folder import JobFolder
from stores.layout import Store


def prepare() -> tuple[EvaluateOptions, JobFolder]:
    """Options of the command line, and the evaluation's folder."""
    options = absolute_paths(tyro.cli(EvaluateOptions, prog="evaluate.py"))
    paths = [*options.checkpoint, *([options.floor] if options.floor else [])]
    digests = [read_checkpoint(path).digest for path in paths]
    deltas = [delta.record["sha256"] for path in options.attack for delta in read_deltas(path)]
    Store.open(options.store).require_splits(*options.split)
    folder = JobFolder(options.out)
    folder.claim({**options.decisive(), "checkpoints": digests, "deltas": deltas})
    return options, folder


def main() -> int:
    """Scores and returns the exit code: 0 done, 2 usage, 3 it cannot go on, 130 interrupted."""
    return run_entry(
        "evaluate",
        ray.init,
        prepare=prepare,
        job=evaluate_checkpoints,
        display=lambda console, _: RunProgress(console, condition_words),
        closing=lambda _, summary: evaluation_lines(summary),
    )


if __name__ == "__main__":
    sys.exit(main())
