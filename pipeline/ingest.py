#!/usr/bin/env python
"""Entry: from AudioSet's segment lists to feature shards, on an embedded Ray or on a cluster (`ray job submit`)."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

import ray
import tyro
from rich.console import Console

from pipeline.audioset import resolve_segments
from pipeline.classes import ClassList, read_class_list
from pipeline.clip import FetchOptions
from pipeline.columns import build_columns
from pipeline.engine import IngestRun, run_to_end
from pipeline.fetch import open_source
from pipeline.http_session import load_cookies
from pipeline.options import IngestOptions, absolute_paths
from pipeline.segments import SegmentTable, read_segments
from pipeline.splits import plan_split
from pipeline.summary import EXIT_USAGE, interrupt_on_sigterm
from stores.layout import Store
from stores.storage import StorageError


def read_lists(options: IngestOptions, classes: ClassList, console: Console) -> list[tuple[str, SegmentTable]]:
    """The lists of segments by the splits that they become. Raises ValueError for one that cannot be read."""
    tables = []
    for argument in options.segments:
        listed = resolve_segments(argument)
        table = read_segments(listed.path, classes, options.skip_bad_rows)
        if table.bad_rows.total:
            console.print(f"{listed.path}: left out {table.bad_rows}", soft_wrap=True)
        tables.append((listed.split, table))
    return tables


def main() -> int:
    """Runs the ingest; its exit code: 0 done, 1 something is pending or failed, 2 usage, 3 it could not go on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    console = Console(stderr=False)
    interrupt_on_sigterm()
    try:
        options = absolute_paths(tyro.cli(IngestOptions, prog="ingest.py"))
        classes = read_class_list(options.labels)
        options = replace(options, retry_class=tuple(classes.resolve(text) for text in options.retry_class))
        columns = build_columns(options.column_names, options.encoder_options)
        if options.kind == "dir":
            open_source(options.source, FetchOptions()).close()  # a folder that is not there is found before all else
        for cookies in {options.cookies, *(egress.cookies for egress in options.egress_list)} - {None}:
            load_cookies(str(cookies))
        tables = read_lists(options, classes, console)
        store = Store.open_or_create(options.store, options.shard_size, options.seed)
        splits = [plan_split(store, split, table, classes) for split, table in tables]
        del tables  # as large as the plans, and a run takes weeks
        for column in columns:
            store.write_spec(column.spec)
        run = IngestRun(options, store, splits, columns, console)
        work = run.look()
    except (ValueError, StorageError) as error:
        print(f"ingest: {error}", file=sys.stderr)
        return EXIT_USAGE
    summary = run_to_end("ingest", run, work, ray.init)
    if isinstance(summary, int):
        return summary
    for line in [*summary.lines(), *summary.reasons(options.max_failed_fraction)]:
        console.print(line, soft_wrap=True, highlight=False)
    return summary.exit_code(options.max_failed_fraction)


if __name__ == "__main__":
    sys.exit(main())
