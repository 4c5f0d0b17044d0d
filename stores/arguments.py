"""What the commands of `python -m stores` have alike: arguments, exit codes, words."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg

EXIT_OK, EXIT_FOUND, EXIT_USAGE = 0, 1, 2
MEDIA_CURE = "restore it from a backup, or move its ledger out of the store and ingest again: the shard is fetched anew"

Uri = Annotated[Positional[str], arg(metavar="URI", help="The store: a directory or an fsspec URI (s3://…, gs://…).")]
Split = Annotated[str | None, arg(metavar="SPLIT", help="Only this split.")]
Column = Annotated[str | None, arg(metavar="COLUMN", help="Only this column: its name, or its feature's (logmel).")]


def counted(count: int, what: str) -> str:
    """`1 clip`, `2,000 clips`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
