#!/usr/bin/env python
"""Entry: brings a store's columns up to date with its media, on an embedded Ray or on a cluster; fetches nothing."""

from __future__ import annotations

import logging
import sys

import ray
import tyro
from rich.console import Console

from pipeline.columns import column_of
from pipeline.engine import IngestRun, run_to_end
from pipeline.rebuild_options import RebuildOptions, absolute_paths
from pipeline.splits import stored_split
from pipeline.summary import (
    EXIT_INCOMPLETE,
    EXIT_OK,
    EXIT_USAGE,
    interrupt_on_sigterm,
)
from stores.layout import Store
from stores.rebuild import require_shards
from stores.storage import StorageError


def prepare(options: RebuildOptions, console: Console) -> tuple[IngestRun, bool]:
    """The run, and whether there is anything to do.

    Raises:
        ValueError: no such split, column or shard, or a column that this program cannot compute.
        StorageError: the store cannot be read.
    """
    store = Store.open(options.store)
    store.require_splits(*options.split)
    names = options.split or store.splits()
    require_shards(store, names, options.shard_numbers or ())
    splits = [stored_split(store, name) for name in names]
    texts = store.columns() if options.columns is None else options.columns.split(",")
    resolved = [store.resolve_column(text) for text in texts]
    columns = tuple(column_of(store.read_spec(name), options.encoder) for name in resolved)
    if len({column.spec.array for column in columns}) != len(columns):
        raise ValueError(f"expected --columns of one column of each kind in a run, got {', '.join(resolved)}")
    run = IngestRun(options.ingest_options(), store, splits, columns, console, options.statuses, fetch=False)
    return run, run.look(options.shard_numbers)


def main() -> int:
    """Rebuilds and returns the exit code: 0 all is up to date, 1 something could not be made, 2 usage, 3 a bug."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console(stderr=False)
    interrupt_on_sigterm()
    try:
        run, work = prepare(absolute_paths(tyro.cli(RebuildOptions, prog="rebuild.py")), console)
    except (ValueError, StorageError) as error:
        print(f"rebuild: {error}", file=sys.stderr)
        return EXIT_USAGE
    summary = run_to_end("rebuild", run, work, ray.init)
    if isinstance(summary, int):
        return summary
    for line in summary.lines():
        console.print(line, soft_wrap=True, highlight=False)
    stale = sum(summary.stale.values())
    if stale:
        console.print(
            f"exit code 1: {stale} column shards are not up to date, `python -m stores plan-rebuild` says why"
        )
    return EXIT_INCOMPLETE if stale else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
