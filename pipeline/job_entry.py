"""What every entry of a job on several ranks does: options, folder, the job on Ray unless it has ended, its summary."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rich.console import Console

from models.checkpoint import CheckpointError
from pipeline.summary import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, interrupt_on_sigterm
from pipeline.trainer import Display, Job, RankOptions, RunFailed, run_on_workers
from stores.job_folder import JobFolder
from stores.storage import StorageError

Options = TypeVar("Options", bound=RankOptions)
Folder = TypeVar("Folder", bound=JobFolder)


def run_entry(
    name: str,
    start: Callable[[], object],
    *,
    prepare: Callable[[], tuple[Options, Folder]],
    job: Job,
    display: Callable[[Console, Options], Display],
    closing: Callable[[Folder, dict[str, Any]], Iterable[str]],
) -> int:
    """Runs a job to its end, shows its summary, and says on the error stream what went wrong.

    Args:
        name: the entry's, before its words.
        start: `ray.init`; called only when there is work.
        prepare: gives the options and the folder, which it has claimed; raises ValueError, StorageError or
            CheckpointError for what cannot be.
        display: what shows the job's steps.
        closing: the lines that are shown of an ended job's folder and summary.

    Returns:
        the exit code: 0 done, 2 usage, 3 it cannot go on, 130 interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console()
    interrupt_on_sigterm()
    try:
        options, folder = prepare()
        ended = folder.summary()
    except (ValueError, StorageError, CheckpointError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EXIT_USAGE
    if ended is None:
        try:
            start()
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            print(f"{name}: Ray cannot be reached: {error}", file=sys.stderr)
            return EXIT_INTERNAL
        interrupt_on_sigterm()
        try:
            run_on_workers(job, options, display(console, options))
        except RunFailed as error:
            print(f"{name}: {error}", file=sys.stderr)
            return EXIT_INTERNAL
        except KeyboardInterrupt:
            print(f"{name}: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
            return EXIT_INTERRUPTED
        ended = folder.summary()
        assert ended is not None
    for line in closing(folder, ended):
        console.print(line, highlight=False, soft_wrap=True)
    return EXIT_OK
