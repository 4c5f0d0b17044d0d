"""Commands of `python -m stores` that clear a store up, or take something out of it."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from stores.arguments import EXIT_FOUND, EXIT_OK, MEDIA_CURE, Uri, counted
from stores.export import Form
from stores.export import export as export_split
from stores.forget import forget as forget_clips
from stores.garbage import find_garbage, remove_garbage
from stores.inventory import compare as compare_inventories
from stores.inventory import read_inventory, segments_csv, take_inventory, write_inventory
from stores.layout import Store
from stores.rebuild import parse_shards
from stores.rebuild import plan_rebuild as rebuilds
from stores.signature import sign as sign_inventory
from stores.signature import signer
from stores.text import size_text

WEEK_H = 168.0
LEAST_H = 1.0  # before anything is removed: a job may be writing


def plan_rebuild(
    uri: Uri,
    *,
    split: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    column: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    shards: Annotated[str | None, arg(metavar="3,7-9")] = None,
) -> int:
    """The column shards that are not up to date, why, and what making them anew takes; nothing is done.

    `pipeline/rebuild.py` (or the next ingest) does it. Exit code 1 where some of it cannot be made any more.

    Args:
        split: Only this split; may be given several times.
        column: Only this column: its name, or its feature's (logmel); may be given several times.
        shards: Only these of each split.
    """
    store = Store.open(uri)
    columns = [store.resolve_column(text) for text in column]
    count, decode, lost, broken = 0, 0, 0, 0
    for found in rebuilds(store, split, columns, None if shards is None else parse_shards(shards)):
        count, decode = count + 1, decode + found.decode
        lost, broken = lost + found.lost - found.broken, broken + found.broken
        takes = f"{counted(found.decode, 'clip')} to decode"
        takes += f"; the media tar of {counted(found.broken, 'clip')} is missing or cut" if found.broken else ""
        kept = found.lost - found.broken
        takes += f"; the media of {counted(kept, 'clip')} were not kept" if kept else ""
        print(f"{found.column}\t{found.split}\t{found.shard:05d}\t{found.why}\t{takes}")
    cannot = f"; {counted(lost, 'clip')} cannot be: fetch them into another store with --media keep" if lost else ""
    cannot += f"; {counted(broken, 'clip')} need their media tar: {MEDIA_CURE}" if broken else ""
    print(f"{counted(count, 'column shard')} to make anew, {counted(decode, 'clip')} to decode{cannot}")
    return EXIT_FOUND if lost or broken else EXIT_OK


def gc(uri: Uri, *, older_than: Annotated[float, arg(metavar="HOURS")] = WEEK_H, delete: bool = False) -> int:
    """What nothing refers to any more: tars that were replaced or never committed, leftovers of killed jobs.

    Without --delete nothing is removed: one line an object, with its age and why.

    Args:
        older_than: Only what nothing has referred to for so many hours. Longer than any job that reads the store runs:
            a reader goes on with the tars that it found when it began. An hour at least, to remove anything.
        delete: Remove them.
    """
    if not 0 <= older_than < math.inf:
        raise ValueError(f"expected --older-than of 0 or more hours, got {older_than}")
    if delete and older_than < LEAST_H:
        raise ValueError(
            f"expected --older-than of at least 1 hour with --delete, got {older_than}: a job may write now"
        )
    store, now = Store.open(uri), time.time()
    limit = 3600 * older_than
    count, size, young, next_s = 0, 0, 0, math.inf
    for found in remove_garbage(store, limit) if delete else find_garbage(store):
        if now - found.since < limit:
            young, next_s = young + 1, min(next_s, limit - (now - found.since))
            continue
        count, size = count + 1, size + found.size
        print(f"{found.name}\t{size_text(found.size)}\t{max(0.0, now - found.since) / 3600:.1f} h\t{found.why}")
    done = "removed" if delete else "would be removed by --delete"
    done += "" if older_than >= LEAST_H else ", once they are an hour old"
    more = f"; {counted(young, 'object')} not old enough, the next one in {next_s / 3600:.1f} h" if young else ""
    print(f"{counted(count, 'object')}, {size_text(size)} {done}{more}")
    return EXIT_OK


def forget(uri: Uri, keys: Annotated[Positional[tuple[str, ...]], arg(metavar="KEY…")]) -> int:
    """Removes clips for good (takedown): media, features, spool. They are never fetched again. There is no way back.

    Tars that hold them are written anew without them and removed at once: jobs that read them have to begin again.

    Args:
        keys: The clips: <ytid>_<start in ms>, in their own case.
    """
    store, count = Store.open(uri), 0
    for name in forget_clips(store, keys):
        count += 1
        print(name)
    print(f"forgotten: {', '.join(keys)}; {counted(count, 'object')} removed or written anew")
    return EXIT_OK


def export(
    uri: Uri,
    *,
    split: Annotated[str, arg(metavar="SPLIT")],
    to: Annotated[str, arg(metavar="URI")],
    column: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    media: bool = False,
    form: Form = "shards",
    clips_per_shard: int = 10_000,
) -> int:
    """Copies a split into WebDataset tars with all columns of a clip side by side, or into files of each clip.

    Args:
        split: Of this split.
        to: An empty folder, or any fsspec URI.
        column: Of this column: its name, or its feature's (logmel). May be given several times.
        media: The clips as fetched too; those whose media were not kept are left out.
        form: shards: tars; files: a file for each member of them.
        clips_per_shard: Clips of a tar.
    """
    store = Store.open(uri)
    _refuse_inside(store, to)
    done = export_split(store, split, column, to, form, media, clips_per_shard)
    missing = f"; {counted(done.missing, 'clip')} left out" if done.missing else ""
    if done.computed < done.shards:
        print(f"stores: {done.computed:,} of {done.shards:,} shards of {split} are there", file=sys.stderr)
    print(f"{counted(done.clips, 'clip')} in {counted(done.files, 'file')}, {size_text(done.size)}{missing}")
    return EXIT_FOUND if done.missing or not done.clips else EXIT_OK


def inventory(
    uri: Annotated[Positional[str | None], arg(metavar="[URI]")] = None,
    *,
    to: Annotated[str | None, arg(metavar="FILE")] = None,
    split: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    sign: Annotated[str | None, arg(metavar="FILE")] = None,
    compare: Annotated[tuple[str, str] | None, arg(metavar="A B")] = None,
    feature: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    signed_by: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, arg(metavar="KEY")] = (),
) -> int:
    """Lists what a store holds in a file that can be kept, or compares two such files.

    `inventory URI --to FILE` writes the list: keys, checksums of media, specs, misses by cause. With `--compare A B`,
    `--to LIST.csv` is what both can train on, as a segments list that ingest.py and other tools read.

    Args:
        uri: The store to list.
        to: Where the list goes.
        split: Only this split; may be given several times.
        sign: An Ed25519 private key (PEM) to sign it with.
        compare: Two lists. Where they have several splits, --split says which; clips of others are not mixed in.
        feature: Of those, only clips that are ok in this column: a full name, or its feature's (logmel); may be given
            several times. Without it every clip with media counts, those that do not decode too.
        signed_by: Both lists have to be signed by such a public key (as --compare prints it); may be given several
            times.
    """
    if (uri is None) == (compare is None):
        raise ValueError("expected a store to list or --compare A B, got both or neither")
    if compare is not None:
        if sign is not None:
            raise ValueError("expected --sign with a store to list: a comparison is not signed")
        return _compare(Path(compare[0]), Path(compare[1]), to, feature, split, signed_by)
    if signed_by:
        raise ValueError("expected --signed-by with --compare")
    if to is None:
        raise ValueError("expected --to FILE for the list")
    assert uri is not None
    store = Store.open(uri)
    _refuse_inside(store, to)
    found = take_inventory(store, split)
    if sign is not None:
        found = sign_inventory(found, Path(sign))
    write_inventory(found, Path(to))
    for name, counts in found.summary["splits"].items():
        lost = {**counts["failed"], **counts["pending"]}
        causes = "".join(f", {count:,} {cause}" for cause, count in sorted(lost.items()))
        print(f"{name}: {counts['planned']:,} planned, {counts['fetched']:,} fetched{causes}")
    print(f"{to}: {len(found.rows):,} segments, digest {found.summary['rows_sha256']}")
    return EXIT_OK


def _refuse_inside(store: Store, to: str) -> None:
    """Raises ValueError where something would be written among the store's own objects, or has no name."""
    if not to:
        raise ValueError("expected --to with a name, got none")
    if (
        store.storage.is_local
        and "://" not in to
        and Path(to).resolve().is_relative_to(Path(store.storage.root).resolve())
    ):
        raise ValueError(f"expected --to outside the store, got {to}")


def _compare(
    first: Path,
    second: Path,
    to: str | None,
    features: tuple[str, ...],
    splits: tuple[str, ...],
    signed_by: tuple[str, ...],
) -> int:
    if to is not None and Path(to).resolve() in (first.resolve(), second.resolve()):
        raise ValueError(f"expected --to another file than the lists that are compared, got {to}")
    lists = [read_inventory(path) for path in (first, second)]
    for path, one in zip((first, second), lists, strict=True):
        key = signer(one)
        if signed_by and key not in signed_by:
            who = f"by {key}" if key else "not signed"
            raise ValueError(f"expected {path} to be signed by {' or '.join(signed_by)}, it is {who}")
        by = f"signed by {key}" if key else "not signed"
        print(f"{path}: {len(one.rows):,} segments, digest {one.summary['rows_sha256'][:16]}, {by}")
    found = compare_inventories(lists[0], lists[1], features, splits)
    print(f"both: {len(found.both):,}, of which {found.same_media:,} with the same bytes")
    print(f"only {first}: {found.only_first:,}; only {second}: {found.only_second:,}")
    if found.other_labels:
        print(f"{found.other_labels:,} have other labels in {second}; the list has those of {first}")
    if to is not None:
        Path(to).write_text(segments_csv(found.both))
        print(f"wrote {to}")
    return EXIT_OK
