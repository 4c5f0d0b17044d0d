#!/usr/bin/env python
"""Entry: universal perturbations against a checkpoint, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import ray
import tyro

from attacks.attack import attack, read_checkpoint
from attacks.attack_folder import DELTAS, STATE, AttackFolder
from attacks.attack_options import AttackOptions, absolute_paths
from attacks.attack_words import look_words, summary_lines
from attacks.conditions import read_deltas
from pipeline.job_entry import run_entry
from pipeline.run_progress import RunProgress
from stores.job_folder import SUMMARY
from stores.layout import Store

logger = logging.getLogger(__name__)


def prepare() -> tuple[AttackOptions, AttackFolder]:
    """Options of the command line, and the attack's folder."""
    options = absolute_paths(tyro.cli(AttackOptions, prog="universal_pgd.py"))
    checkpoint = read_checkpoint(options.checkpoint)
    if "logmel" not in checkpoint.columns:
        raise ValueError(f"{options.checkpoint}: a model that hears nothing; perturbations are of the sound")
    Store.open(options.store).require_splits(*options.fit_split, *options.select_split)
    folder = AttackFolder(options.out)
    folder.claim({**options.decisive(), "checkpoint": checkpoint.digest})
    require_whole(folder)
    return options, folder


def require_whole(folder: AttackFolder) -> None:
    """An attack that has ended and lost a perturbation since has not ended: its state has them all.

    Raises:
        ValueError: the state is damaged, which is told of before Ray starts; or a perturbation is, and there is none.
    """
    state = folder.read_state()
    if folder.summary() is None:
        return
    try:
        read_deltas(folder.storage.uri)
    except ValueError as error:
        if state is None:
            raise
        logger.warning("%s; all are written again from %s", error, STATE)
        folder.storage.remove(SUMMARY)


def closing(folder: AttackFolder, summary: dict[str, Any]) -> Iterator[str]:
    """What is shown of an ended attack: its perturbations, and where they are."""
    yield from summary_lines(summary)
    yield folder.storage.url(DELTAS)


def main() -> int:
    """Attacks and returns the exit code: 0 done, 2 usage, 3 it cannot go on, 130 interrupted."""
    return run_entry(
        "universal_pgd",
        ray.init,
        prepare=prepare,
        job=attack,
        display=lambda console, _: RunProgress(console, look_words),
        closing=closing,
    )


if __name__ == "__main__":
    sys.exit(main())
