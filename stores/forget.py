"""Removes a clip from a store for good: its media, its features, and what a shard under way has of it.

The key goes onto the store's list of forgotten clips first. Then every shard that plans it gets a ledger in which it is
gone, one that has none yet too: a job that fetches the shard at this moment cannot commit beside it, begins again, and
leaves the clip alone. Unlike `gc` this waits for no age: tars that hold the clip are removed as soon as no commit names
them, under the feet of readers that have them open on an object store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import xxhash

from stores.layout import Store, StoreError
from stores.ledger import (
    FAILED,
    LedgerRow,
    commit_ledger,
    media_json,
    read_ledger,
)
from stores.manifest import OK, Manifest, ManifestRow, Sums, commit_manifest, read_manifest
from stores.shards import Sample, npy_array, write_feature_tar, write_media_tar
from stores.show import find_planned
from stores.storage import ABSENT, SCRATCH, Conflict, StorageError, is_scratch

WORDS = "removed on request"
TRIES = 5  # of a commit that another job was quicker with
CHUNK = 4 << 20
DAMAGED = (StorageError, OSError, LookupError, TypeError, ValueError, OverflowError)  # what broken tables raise


def forget(store: Store, keys: Sequence[str]) -> Iterator[str]:
    """Removes clips from every split, column and spool.

    Cut off anywhere, the same call again completes it.

    Yields:
        names of objects, as they are written anew or removed.

    Raises:
        StoreError: no split plans such a clip; nothing is removed then.
        Conflict: other jobs commit the same shard again and again; call it again.
        StorageError: the store cannot be read or written, or something else in these shards is damaged; the rest was
            done.
    """
    if not keys:
        raise StoreError("expected one or more keys, got none")
    places: dict[tuple[str, int], dict[str, int]] = {}
    for key in keys:
        for split, planned in find_planned(store, key):
            places.setdefault((split, planned["shard"]), {})[key] = planned["position"]
    store.add_forgotten(keys)
    troubles: list[str] = []
    for (split, shard), gone in sorted(places.items()):
        for step in _steps(store, split, shard, gone):
            try:
                yield from step()
            except Conflict:
                raise
            except DAMAGED as error:  # whatever cannot be read keeps nothing else from going
                named = isinstance(error, StorageError | StoreError)
                troubles.append(str(error) if named else f"{split} {shard}: {type(error).__name__}: {error}")
    yield from _abandoned(store, set(keys))
    if troubles:
        raise StorageError("; ".join(dict.fromkeys(troubles)))


def _steps(store: Store, split: str, shard: int, gone: Mapping[str, int]) -> Iterator[Callable[[], Iterable[str]]]:
    """What there is to do in a shard, each by itself: what it does is what it yields or returns."""
    for position in gone.values():
        yield partial(_remove, store, f"{store.spool_folder(split, shard)}/{position:05d}.tar")
    yield partial(_again, partial(_from_media, store, split, shard, gone.keys()))
    columns = store.columns()
    for column in columns:
        yield partial(forget_in_column, store, column, split, shard, gone.keys())
    if store.storage.size(store.ledger_name(split, shard)) is not None:  # else refused: `_refuse_orphans`
        yield partial(_unnamed, store, store.media_folder(split), shard, partial(_media, store, split, shard), gone)
    for column in columns:
        named = partial(_features, store, column, split, shard)
        yield partial(_unnamed, store, store.column_folder(column, split), shard, named, gone)


def forgotten_row(row: LedgerRow) -> LedgerRow:
    """The ledger's row of a clip that was removed: as good as gone, with its history."""
    kept = ("attempts", "first_attempt", "last_attempt", "traffic", "requests")
    history = {name: getattr(row, name) for name in kept}
    return LedgerRow(row.position, row.key, FAILED, "gone", WORDS, **history)


def forget_in_column(store: Store, column: str, split: str, shard: int, gone: Set[str]) -> Iterator[str]:
    """Takes clips out of a column shard; samples of others that are damaged go too, and are computed again."""
    yield from _again(partial(_from_column, store, column, split, shard, gone))


def _again(step: Callable[[], list[str]]) -> list[str]:
    for _ in range(TRIES - 1):
        try:
            return step()
        except Conflict:
            continue
    return step()


def _remove(store: Store, name: str) -> Iterator[str]:
    if store.storage.size(name) is not None:
        store.storage.remove(name)
        yield name


def _from_media(store: Store, split: str, shard: int, gone: Set[str]) -> list[str]:
    """Writes the tars that hold the clips without them, and a ledger in which they are gone."""
    ledger = read_ledger(store, split, shard)
    if ledger is None:
        _refuse_orphans(store, split, shard, gone)
        rows, tars, version = _untried(store, split, shard), {}, ABSENT
    else:
        rows, tars, version = list(ledger.rows), dict(ledger.tars), ledger.version
    after = [forgotten_row(row) if row.key in gone else row for row in rows]
    if after == rows and ledger is not None:
        return []
    written = []
    for name in sorted({row.tar for row in rows if row.key in gone and row.tar is not None}):
        tars.pop(name, None)  # one that its ledger does not name: `verify` says so
        after, made = _without(store, split, shard, after, name)
        tars.update(made)
        written += [f"{store.media_folder(split)}/{tar}" for tar in made]
    commit_ledger(store, split, shard, after, tars, version)
    return [*written, store.ledger_name(split, shard)]


def _refuse_orphans(store: Store, split: str, shard: int, gone: Set[str]) -> None:
    """Raises StorageError where media tars without a ledger hold the clips: which others they hold is not known."""
    for path, size in store.sizes(store.media_folder(split)).items():
        if _is_tar_of(path, shard) and _holds(store, path, size, gone):
            raise StorageError(
                f"{path} holds {', '.join(sorted(gone))}, and {store.ledger_name(split, shard)}, which says what else "
                "it holds, is missing: restore it, or run the ingest, which fetches the shard anew; then forget again"
            )


def _is_tar_of(path: str, shard: int) -> bool:
    name = path.rsplit("/", 1)[1]
    return name.startswith(f"{shard:05d}.") and name.endswith(".tar")


def _untried(store: Store, split: str, shard: int) -> list[LedgerRow]:
    plan, _ = store.read_plan(split)
    size = store.config.shard_size
    keys = plan["key"].slice(shard * size, size).to_pylist()
    return [LedgerRow(position, key) for position, key in enumerate(keys)]


def _without(
    store: Store, split: str, shard: int, rows: list[LedgerRow], tar: str
) -> tuple[list[LedgerRow], dict[str, dict[str, object]]]:
    """A media tar with the clips that still name it: the rows, placed in the new one, and its facts.

    Bytes are carried over as they are: damaged ones stay damaged, for `verify` to find, and keep no other from leaving.
    """
    kept = sorted((row for row in rows if row.tar == tar), key=lambda row: row.offset or 0)
    if not kept:
        return rows, {}

    def members() -> Iterator[tuple[str, bytes]]:
        for row in kept:
            yield f"{row.key}.json", media_json(row)
            name = f"{store.media_folder(split)}/{tar}"
            if row.offset is None or row.media_bytes is None or row.extension is None:
                raise StorageError(f"{store.ledger_name(split, shard)} does not say where {row.key} lies in {name}")
            try:
                data = store.storage.read_range(name, row.offset, row.offset + row.media_bytes)
            except FileNotFoundError as error:
                raise StorageError(
                    f"{name} is missing, and its ledger names it: restore it, and forget again"
                ) from error
            yield f"{row.key}.{row.extension}", data

    with store.storage.scratch_file() as scratch:
        facts, offsets = write_media_tar(scratch, members())
        made = store.media_tar_name(split, shard, facts.digest8)
        store.storage.publish_file(scratch, made)
    name = made.rsplit("/", 1)[1]
    placed = [
        replace(row, tar=name, offset=offsets[f"{row.key}.{row.extension}"]) if row.tar == tar else row for row in rows
    ]
    return placed, {name: {"size": facts.size, "sha256": facts.sha256}}


def _from_column(store: Store, column: str, split: str, shard: int, gone: Set[str]) -> list[str]:
    manifest = read_manifest(store, column, split, shard)
    if manifest is None or not any(row.key in gone for row in manifest.rows):
        return []
    spec, folder = store.read_spec(column), store.column_folder(column, split)
    named, written = manifest.summary["tar"], []
    # Of a tar that is not there whole nothing can be kept: the shard is made anew.
    there = named is None or store.storage.size(f"{folder}/{named['name']}") == named["size"]
    rows: list[ManifestRow] = []
    arrays: dict[int, tuple[dict[str, Any], np.ndarray]] = {}
    for row in manifest.rows if there else ():
        if row.key not in gone:
            found = _sample(store, folder, manifest, row) if row.status == OK else None
            if found is not None:
                arrays[len(rows)] = found
            if found is not None or row.status != OK:
                rows.append(row)
    tar = None
    if arrays:
        samples = [Sample(rows[i].key, *arrays[i]) for i in arrays]
        with store.storage.scratch_file() as scratch:
            facts, places = write_feature_tar(scratch, spec.array, samples)
            path = store.column_tar_name(column, split, shard, facts.digest8)
            store.storage.publish_file(scratch, path)
        tar = (path.rsplit("/", 1)[1], facts)
        for i, place in zip(arrays, places, strict=True):
            rows[i] = replace(rows[i], **asdict(place))
        written.append(path)
    sums = Sums.of((arrays[i][1][: rows[i].real_rows] for i in arrays), spec.shape[-1])
    labels, noted = manifest.summary["labels_digest"], manifest.summary["noted"]
    commit_manifest(store, spec, split, shard, rows, tar, sums, labels, noted, manifest.version)
    return [*written, store.manifest_name(column, split, shard)]


def _sample(
    store: Store, folder: str, manifest: Manifest, row: ManifestRow
) -> tuple[dict[str, Any], np.ndarray] | None:
    """A sample's json and array; None where the bytes are not those that were written."""
    start, size = row.sample_offset, row.sample_bytes
    if start is None or size is None or row.json_offset is None or row.array_offset is None:
        return None
    data = store.storage.read_range(f"{folder}/{manifest.summary['tar']['name']}", start, start + size)
    if xxhash.xxh3_64_hexdigest(data) != row.sample_xxh3:
        return None
    meta = json.loads(data[row.json_offset - start :][: row.json_bytes])
    return meta, npy_array(data[row.array_offset - start :][: row.array_bytes])


def _media(store: Store, split: str, shard: int) -> set[str]:
    """The tars that a shard's ledger names."""
    ledger = read_ledger(store, split, shard)
    return set(ledger.tars) if ledger else set()


def _features(store: Store, column: str, split: str, shard: int) -> set[str]:
    """The tar that a column shard's manifest names."""
    manifest = read_manifest(store, column, split, shard)
    return {manifest.summary["tar"]["name"]} if manifest and manifest.summary["tar"] else set()


def _unnamed(
    store: Store, folder: str, shard: int, named: Callable[[], set[str]], gone: Collection[str]
) -> Iterator[str]:
    """Removes the shard's tars that hold the clips and that no commit names: those replaced now, and older ones."""
    for path, size in store.sizes(folder).items():
        name = path.rsplit("/", 1)[1]
        # Asked again after the tar was read: it may have been committed meanwhile.
        if _is_tar_of(path, shard) and name not in named() and _holds(store, path, size, gone) and name not in named():
            store.storage.remove(path)
            yield path


def _abandoned(store: Store, gone: Collection[str]) -> Iterator[str]:
    """Removes what killed writers left of the clips on the store's disk. A writer at work begins its shard again."""
    for entry in store.storage.list(SCRATCH):
        if entry.size >= 0 and is_scratch(entry.name) and _holds(store, entry.name, entry.size, gone):
            store.storage.remove(entry.name)
            yield entry.name


def _holds(store: Store, path: str, size: int, gone: Collection[str]) -> bool:
    """Whether a tar, whole or not, names one of the clips."""
    words = [key.encode() for key in gone]
    longest = max(map(len, words))
    tail = b""
    for start in range(0, size, CHUNK):
        try:
            data = store.storage.read_range(path, start, min(start + CHUNK, size))
        except FileNotFoundError:
            return False
        if any(word in tail + data for word in words):
            return True
        tail = data[-longest:]
    return False
