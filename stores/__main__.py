"""Looks into a store: `python -m stores status|show|failed|verify|urls|gc|forget|export|inventory URI …`."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from typing import Annotated

import tyro
from rich.console import Console
from tyro.conf import FlagCreatePairsOff, Positional, arg

from stores.arguments import EXIT_FOUND, EXIT_OK, EXIT_USAGE, MEDIA_CURE, Column, Split, Uri, counted
from stores.failed import losses
from stores.layout import Store
from stores.maintenance import export, forget, gc, inventory, plan_rebuild
from stores.shard_index import ShardError
from stores.show import Clip, ColumnClip, describe, find_clips
from stores.status import store_status
from stores.status_table import render
from stores.storage import StorageError
from stores.survey import live_tars
from stores.text import one_line, size_text, without_password
from stores.verify import verify as verify_store

PROGRESS_EVERY_S = 30.0
_DASHED_KEY = re.compile(r"-[A-Za-z0-9_-]{10}_\d+")  # one YouTube id in 64 begins with a dash


def status(uri: Uri, *, as_json: Annotated[bool, arg(name="json")] = False) -> int:
    """What is planned, fetched, failed, pending, computed and stale, and how large it is.

    Args:
        as_json: For programs: everything as one JSON object.
    """
    store = Store.open(uri)
    found = store_status(store)
    if as_json:
        print(json.dumps({"uri": without_password(store.storage.uri), **found.to_dict()}, indent=2))
    else:
        console = Console()
        with console.capture() as captured:
            render(found, without_password(store.storage.uri), console)
        print(captured.get(), end="")
    return EXIT_OK


def show(
    uri: Uri,
    key: Annotated[Positional[str], arg(metavar="KEY")],
    *,
    split: Split = None,
    column: Column = None,
    png: Annotated[str | None, arg(metavar="FILE")] = None,
) -> int:
    """Everything that a store knows of one clip.

    Args:
        key: The clip: <ytid>_<start in ms>, in its own case.
        png: Also write its log-mel as a picture to this file.
    """
    store = Store.open(uri)
    clips = find_clips(store, key, split, column and store.resolve_column(column))
    for number, clip in enumerate(clips):
        print(*(["", *describe(clip)] if number else describe(clip)), sep="\n")
    if png is not None:
        _draw(clips, png)
    return EXIT_OK


def verify(uri: Uri, *, split: Split = None, column: Column = None, media: bool = False) -> int:
    """Re-reads every table and column tar and compares them; one line a problem, exit code 1 if there is any.

    Args:
        media: Read the media tars too; else they only have to be there in the right size.
    """
    store = Store.open(uri)
    counts: Counter[str] = Counter()
    said = time.monotonic()
    for checked in verify_store(store, split, column and store.resolve_column(column), media):
        counts.update(checked.counts)
        counts["problems"] += len(checked.problems)
        for problem in checked.problems:
            print(problem, flush=True)
        if time.monotonic() - said > PROGRESS_EVERY_S:
            said = time.monotonic()
            print(f"verify: {counts['shards']:,} shards, {size_text(counts['bytes'])} so far", file=sys.stderr)
    print(_verdict(counts, media))
    if counts["problems"]:
        print(
            "The next ingest makes a column shard anew whose tar is missing or of another size; one with other damage, "
            "when its manifest (.parquet) is removed first. Media tars and ledgers cannot be made anew from the store: "
            f"{MEDIA_CURE}.",
            file=sys.stderr,
        )
    return EXIT_FOUND if counts["problems"] else EXIT_OK


def urls(
    uri: Uri,
    *,
    split: Annotated[str, arg(metavar="SPLIT")],
    column: Annotated[str, arg(metavar="COLUMN")],
    braces: bool = False,
) -> int:
    """The live tars of a column, one URL a line in shard order, for webdataset.WebDataset.

    WebDataset opens paths, http(s):// and gs:// by itself; s3:// has to be given to it as `pipe:aws s3 cp URL -`.

    Args:
        split: Of this split.
        column: Of this column: its name, or its feature's (logmel).
        braces: One line in brace notation instead.
    """
    store = Store.open(uri)
    name = store.resolve_column(column)
    live = live_tars(store, split, name)
    code = _complain(store, split, name, live)
    found = [store.storage.url(tar) for tar in live]
    if braces and len(found) > 1:
        folder = found[0].rsplit("/", 1)[0]
        found = [f"{folder}/{{{','.join(url.rsplit('/', 1)[1].removesuffix('.tar') for url in found)}}}.tar"]
    print(*found, sep="\n", end="\n" if found else "")
    return code


def failed(uri: Uri, *, split: Split = None, column: Column = None) -> int:
    """The clips without media, or without a feature: split, key, where, status, cause, attempts, words; tab-separated.

    `where` is `media` or a column. Shards that nothing was tried of yet are left out: `status` counts them.
    """
    store = Store.open(uri)
    splits, columns = store.splits(), store.columns()
    if split is not None and split not in splits:
        raise ValueError(f"no split {split!r} in {store.storage.uri}; it has: {', '.join(splits) or 'none'}")
    chosen = columns if column is None else [store.resolve_column(column)]
    for loss in losses(store, splits if split is None else [split], chosen):
        values = (loss.split, loss.key, loss.where, loss.status, loss.cause, loss.attempts, loss.words)
        print(*("-" if value is None else one_line(str(value)) for value in values), sep="\t")
    return EXIT_OK


def _complain(store: Store, split: str, column: str, live: list[str]) -> int:
    """Says on stderr what a list of live tars lacks; the exit code that it is worth."""
    listed = store.sizes(store.column_folder(column, split))
    lost = [name for name in live if name not in listed]
    shards = store.shard_count(split)
    computed = sum(name.endswith(".parquet") for name in listed)
    if lost:
        more = f" and {len(lost) - 1} more are" if len(lost) > 1 else " is"
        print(f"stores: {lost[0]}{more} missing: run ingest or rebuild", file=sys.stderr)
    if computed < shards:
        print(f"stores: {computed} of {shards} shards of {split} are computed in {column}", file=sys.stderr)
    return EXIT_FOUND if lost or not live else EXIT_OK


COMMANDS = (status, show, failed, verify, urls, plan_rebuild, gc, forget, export, inventory)


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns 0; 1 when `verify` found something or `urls` lacks tars; 2 for what cannot be done."""
    try:
        code: int = tyro.extras.subcommand_cli_from_dict(
            {command.__name__.replace("_", "-"): command for command in COMMANDS},  # type: ignore[attr-defined]
            prog="python -m stores",
            description="Looks into a feature store.",
            args=_keys_last(sys.argv[1:] if argv is None else argv),
            config=(FlagCreatePairsOff,),
        )
        if sys.stdout is not None:  # closed by whoever called
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `… | head`: whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except (ValueError, StorageError, ShardError, ImportError, OSError) as error:
        print(f"stores: {one_line(str(error))}", file=sys.stderr)
        return EXIT_USAGE


def _keys_last(args: list[str]) -> list[str]:
    """Moves keys that begin with a dash behind `--`, so that none is taken for an option."""
    dashed = [] if "--" in args else [text for text in args if _DASHED_KEY.fullmatch(text)]
    return [text for text in args if text not in dashed] + (["--", *dashed] if dashed else [])


def _draw(clips: list[Clip], path: str) -> None:
    def drawable(found: ColumnClip) -> bool:
        return found.array is not None and "logmel" in found.spec.constants

    pictures = [(clip, found) for clip in clips for found in clip.columns if drawable(found)]
    if not pictures:
        raise ValueError("expected a log-mel of this clip to draw, found none among its columns")
    clip, found = pictures[0]
    if any(other.spec.column != found.spec.column for _, other in pictures):
        names = ", ".join(sorted({other.spec.column for _, other in pictures}))
        raise ValueError(f"expected one log-mel to draw, found {names}: choose with --column")
    from stores.picture import save_logmel  # matplotlib takes half a second that no other command has to spend

    assert found.array is not None and found.row is not None
    title = f"{clip.planned['key']}   {', '.join(clip.classes)}"
    save_logmel(path, found.array, found.spec.constants["logmel"], title, found.row.real_rows or 0)
    print(f"\nwrote {path}")


def _verdict(counts: Counter[str], media: bool) -> str:
    names = ("ledgers", "manifests", "feature tars", "media tars")
    seen = ", ".join(f"{counts[name]:,} {name}" for name in names)
    how = "" if media else ", media tars by size only"
    problems = counted(counts["problems"], "problem") if counts["problems"] else "no problem"
    shards = counted(counts["shards"], "shard")
    return f"verified {shards}: {seen}, {size_text(counts['bytes'])} read{how}; {problems} found"


if __name__ == "__main__":
    sys.exit(main())
