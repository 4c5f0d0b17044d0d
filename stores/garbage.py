"""What nothing in a store refers to any more, since when, and its removal.

Garbage is a tar that no ledger or manifest names, a spool entry whose outcome its ledger has, and what a writer that
was killed left under `.tmp`. A file that this program did not write is never garbage.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stores.layout import Store
from stores.ledger import FETCHED, read_ledger
from stores.manifest import is_current
from stores.spool import Spool
from stores.storage import SCRATCH, Entry, StorageError, is_scratch
from stores.survey import planned_states, read_all
from stores.tables import summary_of

logger = logging.getLogger(__name__)

_TAR = re.compile(r"(\d{5,})\.[0-9a-f]{8}\.tar")
_TABLE = re.compile(r"(\d{5,})\.parquet")


@dataclass(frozen=True)
class Garbage:
    """An object that nothing refers to.

    Attributes:
        name, size, modified: of the object; bytes, and when it was written.
        since: Unix seconds: nothing has referred to it since then or longer.
        why: in words.
    """

    name: str
    size: int
    since: float
    why: str
    modified: float | None = None


def find_garbage(store: Store) -> Iterator[Garbage]:
    """Every object that nothing refers to, whatever its age.

    Shards whose ledger or manifest cannot be read are left out with a warning: what they name is not known.

    Raises:
        StorageError: the store cannot be listed.
    """
    for entry in store.storage.list(SCRATCH):
        if entry.size >= 0 and is_scratch(entry.name):
            why = "left by a writer that ended before its commit"
            yield Garbage(entry.name, entry.size, _time(entry), why, entry.modified)
    for split in store.splits():
        for folder in (store.media_folder(split), *(store.column_folder(name, split) for name in store.columns())):
            yield from _tars(store, folder)
        yield from _spooled(store, split)


def remove_garbage(store: Store, older_than_s: float, now: Callable[[], float] = time.time) -> Iterator[Garbage]:
    """Removes what nothing has referred to for so long; yields each object after it is gone.

    A tar that is being committed is as old as its last byte, and a reader goes on with what it has opened:
    `older_than_s` has to be longer than both a commit and the longest job that reads.
    """
    for found in find_garbage(store):
        if now() - found.since >= older_than_s and _is_still(store, found):
            store.storage.remove(found.name)
            yield found


def _is_still(store: Store, found: Garbage) -> bool:
    """Whether an object is what was listed, and nothing names it now: the list may be minutes old."""
    if store.storage.modified(found.name) != found.modified:
        return False
    folder, _, name = found.name.rpartition("/")
    match = _TAR.fullmatch(name)
    return not match or name not in (_named(store, f"{folder}/{match[1]}.parquet") or ())


def _named(store: Store, table: str) -> set[str] | None:
    """The tars that a ledger or manifest names; None where it is not there. Raises for one that cannot be read."""
    data, _ = store.storage.read_versioned(table)
    if data is None:
        return None
    summary = summary_of(data, table)
    if "tars" in summary:
        return set(summary["tars"])
    return {summary["tar"]["name"]} if summary["tar"] else set()


def _tars(store: Store, folder: str) -> Iterator[Garbage]:
    """Tars of a folder that no commit names, since the commit that stopped naming them.

    Commits are read before what they are held against is listed: what is committed in between is young, never garbage.
    Media of a shard without a ledger are not garbage: it may have been lost, and they are the only ones.
    """
    named: dict[str, set[str] | None] = {}

    def read(path: str) -> None:
        number = path.rsplit("/", 1)[1].removesuffix(".parquet")
        try:
            named[number] = _named(store, path)
        except StorageError as error:
            logger.warning("%s cannot be read, so nothing of its shard is taken for garbage: %s", path, error)
            named[number] = None

    read_all(read, [name for name in store.sizes(folder) if _TABLE.fullmatch(name.rsplit("/", 1)[1])])
    entries = {entry.name.rsplit("/", 1)[1]: entry for entry in store.storage.list(folder) if entry.size >= 0}
    for name, entry in entries.items():
        match = _TAR.fullmatch(name)
        if not match:
            continue
        commit, live = entries.get(f"{match[1]}.parquet"), named.get(match[1])
        if commit is None and match[1] not in named and not folder.startswith("media/"):
            yield Garbage(entry.name, entry.size, _time(entry), "never committed", entry.modified)
        elif commit is not None and live is not None and name not in live:
            since = max(_time(entry), _time(commit))
            yield Garbage(entry.name, entry.size, since, f"{commit.name} names another, or none", entry.modified)


def _spooled(store: Store, split: str) -> Iterator[Garbage]:
    """Spool entries of clips whose outcome the ledger has, and whose bytes no column waits for."""
    folders = [entry.name for entry in store.storage.list(store.spool_folder(split)) if entry.size < 0]
    shards = [int(name) for name in (folder.rsplit("/", 1)[1] for folder in folders) if name.isdigit()]
    if not shards:
        return
    digests = [state.labels for state in planned_states(store, split)]
    for shard in shards:
        try:
            ledger = read_ledger(store, split, shard)
            rows = Spool(store, split, shard).rows()
            if ledger is None or shard >= len(digests):
                continue
            waited_for = not _computed(store, split, shard, ledger.summary, digests[shard])
        except (StorageError, ValueError) as error:
            logger.warning("shard %d of %s: %s: nothing of its spool is taken for garbage", shard, split, error)
            continue
        table = store.ledger_name(split, shard)
        for entry in store.storage.list(store.spool_folder(split, shard)):
            row = rows.get(_position(entry))
            if row is None or row.position >= len(ledger.rows) or row.attempts > ledger.rows[row.position].attempts:
                continue
            there = ledger.rows[row.position]
            if there.status == FETCHED and there.tar is None and waited_for:
                continue
            yield Garbage(entry.name, entry.size, _time(entry), f"{table} has its outcome", entry.modified)


def _computed(store: Store, split: str, shard: int, ledger: dict[str, Any], labels: str) -> bool:
    """Whether every column of the store is up to date for a shard whose media are kept nowhere else."""
    found = []
    for column in store.columns():
        name = store.manifest_name(column, split, shard)
        data, _ = store.storage.read_versioned(name)
        summary = None if data is None else summary_of(data, name)
        found.append(is_current(summary, ledger, store.read_spec(column).digest, labels))
    return bool(found) and all(found)


def _position(entry: Entry) -> int:
    name = entry.name.rsplit("/", 1)[1].removesuffix(".tar")
    return int(name) if name.isdigit() else -1


def _time(entry: Entry) -> float:
    """When an object was written; now, where the backend does not say: it is never old then."""
    return time.time() if entry.modified is None else entry.modified
