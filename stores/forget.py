"""Removes a clip from a store for good: its media, its features, and what a shard under way has of it.

The key goes onto the store's list of forgotten clips first, so that no job fetches it any more. Ledgers and manifests
are commits as always; unlike `gc` this waits for no age: tars that hold the clip are removed as soon as no commit
names them, under the feet of readers that have them open on an object store.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, replace

import numpy as np

from stores.layout import Store, StoreError
from stores.ledger import FAILED, Ledger, LedgerRow, commit_ledger, read_ledger
from stores.manifest import OK, Manifest, ManifestRow, Sums, commit_manifest, read_manifest
from stores.shards import Sample, npy_array, write_feature_tar, write_media_tar
from stores.show import find_clips
from stores.spool import Spool
from stores.storage import StorageError
from stores.tar_stream import TarStream

WORDS = "removed on request"


def forget(store: Store, keys: Sequence[str]) -> Iterator[str]:
    """Removes clips from every split, column and spool.

    Cut off anywhere, the same call again completes it.

    Yields:
        what was written anew or removed: names of objects, and for clips without media what became of them.

    Raises:
        StoreError: no split plans such a clip; nothing is removed then.
        Conflict: another job commits the same shard at this moment; call it again.
        StorageError: the store cannot be read or written.
    """
    if not keys:
        raise StoreError("expected one or more keys, got none")
    places: dict[tuple[str, int], set[str]] = {}
    for key in keys:
        for clip in find_clips(store, key):
            places.setdefault((clip.split, clip.planned["shard"]), set()).add(key)
    store.add_forgotten(keys)
    for (split, shard), gone in sorted(places.items()):
        yield from _from_spool(store, split, shard, gone)
        yield from _from_media(store, split, shard, gone)
        for column in store.columns():
            yield from _from_column(store, column, split, shard, gone)
        yield from _unnamed(store, split, shard, gone)


def forgotten_row(row: LedgerRow) -> LedgerRow:
    """The ledger's row of a clip that was removed: as good as gone, with its history."""
    kept = ("attempts", "first_attempt", "last_attempt", "traffic", "requests")
    history = {name: getattr(row, name) for name in kept}
    return LedgerRow(row.position, row.key, FAILED, "gone", WORDS, **history)


def _from_spool(store: Store, split: str, shard: int, gone: Set[str]) -> Iterator[str]:
    spool = Spool(store, split, shard)
    for position, row in spool.rows().items():
        if row.key in gone:
            name = f"{spool.folder}/{position:05d}.tar"
            store.storage.remove(name)
            yield name


def _from_media(store: Store, split: str, shard: int, gone: Set[str]) -> Iterator[str]:
    """Writes the tars that hold the clips without them, and a ledger in which they are gone."""
    ledger = read_ledger(store, split, shard)
    if ledger is None or not any(row.key in gone and row != forgotten_row(row) for row in ledger.rows):
        return
    rows = [forgotten_row(row) if row.key in gone else row for row in ledger.rows]
    tars = dict(ledger.tars)
    for name in {row.tar for row in ledger.rows if row.key in gone and row.tar is not None}:
        del tars[name]
        rows, made = _without(store, split, shard, ledger, rows, name, gone)
        if made:
            tars.update(made)
            yield f"{store.media_folder(split)}/{next(iter(made))}"
    commit_ledger(store, split, shard, rows, tars, ledger.version)
    yield store.ledger_name(split, shard)


def _without(
    store: Store, split: str, shard: int, ledger: Ledger, rows: list[LedgerRow], tar: str, gone: Set[str]
) -> tuple[list[LedgerRow], dict[str, dict[str, object]]]:
    """A media tar without some clips: the rows, placed in the new one, and its facts; none where nothing is left."""
    if not any(row.tar == tar for row in rows):
        return rows, {}
    path = f"{store.media_folder(split)}/{tar}"
    with store.storage.scratch_file() as scratch:
        facts, offsets = write_media_tar(scratch, _members(store, path, ledger.tars[tar]["size"], gone))
        made = store.media_tar_name(split, shard, facts.digest8)
        store.storage.publish_file(scratch, made)
    name = made.rsplit("/", 1)[1]
    placed = [
        replace(row, tar=name, offset=offsets[f"{row.key}.{row.extension}"]) if row.tar == tar else row for row in rows
    ]
    return placed, {name: {"size": facts.size, "sha256": facts.sha256}}


def _members(store: Store, path: str, size: int, gone: Set[str]) -> Iterator[tuple[str, bytes]]:
    """The members of a media tar, in order, but for those of some clips."""
    try:
        with tarfile.open(fileobj=TarStream(store.storage, path, size), mode="r|") as archive:  # type: ignore[call-overload]
            for info in archive:
                file = archive.extractfile(info)
                if file is not None and info.name.split(".", 1)[0] not in gone:
                    yield info.name, file.read()
    except (tarfile.TarError, FileNotFoundError) as error:
        raise StorageError(f"{path} cannot be read, and its ledger names it: restore it first ({error})") from error


def _from_column(store: Store, column: str, split: str, shard: int, gone: Set[str]) -> Iterator[str]:
    """Writes a column shard without the clips. One whose tar is damaged is removed: the next ingest makes it anew."""
    manifest = read_manifest(store, column, split, shard)
    if manifest is None or not any(row.key in gone for row in manifest.rows):
        return
    rows = [row for row in manifest.rows if row.key not in gone]
    name = store.manifest_name(column, split, shard)
    try:
        arrays = _arrays(store, f"{store.column_folder(column, split)}", manifest, rows)
    except (StorageError, FileNotFoundError, ValueError):
        store.storage.remove(name)
        yield name
        return
    spec, tar = store.read_spec(column), None
    ok = [i for i, row in enumerate(rows) if row.status == OK]
    if ok:
        samples = [Sample(rows[i].key, *arrays[i]) for i in ok]
        with store.storage.scratch_file() as scratch:
            facts, places = write_feature_tar(scratch, spec.array, samples)
            path = store.column_tar_name(column, split, shard, facts.digest8)
            store.storage.publish_file(scratch, path)
        tar = (path.rsplit("/", 1)[1], facts)
        for i, place in zip(ok, places, strict=True):
            rows[i] = replace(rows[i], **asdict(place))
        yield path
    sums = Sums.of((arrays[i][1][: rows[i].real_rows] for i in ok), spec.shape[-1])
    labels, noted = manifest.summary["labels_digest"], manifest.summary["noted"]
    commit_manifest(store, spec, split, shard, rows, tar, sums, labels, noted, manifest.version)
    yield name


def _arrays(
    store: Store, folder: str, manifest: Manifest, rows: Sequence[ManifestRow]
) -> dict[int, tuple[dict[str, object], np.ndarray]]:
    """By row, a sample's json and array."""
    found = {}
    for i, row in enumerate(rows):
        if row.status != OK:
            continue
        assert row.sample_offset is not None and row.sample_bytes is not None
        assert row.json_offset is not None and row.json_bytes is not None
        assert row.array_offset is not None and row.array_bytes is not None
        start = row.sample_offset
        data = store.storage.read_range(f"{folder}/{manifest.summary['tar']['name']}", start, start + row.sample_bytes)
        meta = data[row.json_offset - start :][: row.json_bytes]
        found[i] = (json.loads(meta), npy_array(data[row.array_offset - start :][: row.array_bytes]))
    return found


def _unnamed(store: Store, split: str, shard: int, gone: Set[str]) -> Iterator[str]:
    """Removes the shard's tars that hold the clips and that no commit names: those replaced now, and older ones."""
    ledger = read_ledger(store, split, shard)
    yield from _remove_holding(store, store.media_folder(split), shard, set(ledger.tars) if ledger else set(), gone)
    for column in store.columns():
        manifest = read_manifest(store, column, split, shard)
        tar = manifest.summary["tar"] if manifest else None
        folder = store.column_folder(column, split)
        yield from _remove_holding(store, folder, shard, {tar["name"]} if tar else set(), gone)


def _remove_holding(store: Store, folder: str, shard: int, named: Set[str], gone: Set[str]) -> Iterator[str]:
    for path, size in store.sizes(folder).items():
        name = path.rsplit("/", 1)[1]
        of_shard = name.startswith(f"{shard:05d}.") and name.endswith(".tar")
        if of_shard and name not in named and _holds(store, path, size, gone):
            store.storage.remove(path)
            yield path


def _holds(store: Store, path: str, size: int, gone: Set[str]) -> bool:
    """Whether a tar has a member of one of the clips; one that cannot be read may."""
    try:
        with tarfile.open(fileobj=TarStream(store.storage, path, size), mode="r|") as archive:  # type: ignore[call-overload]
            return any(info.name.split(".", 1)[0] in gone for info in archive)
    except (tarfile.TarError, StorageError, FileNotFoundError):
        return True
