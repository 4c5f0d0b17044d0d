"""What would be computed anew in a store, and why: column shards that do not follow from ledgers and plans any more.

Nothing is fetched for it: a column follows from media shards. A shard that nothing was fetched of yet is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stores.layout import Store, StoreError
from stores.ledger import FETCHED, LedgerRow, read_ledger
from stores.manifest import read_manifest
from stores.spool import Spool
from stores.survey import ShardState, planned_states, read_states


@dataclass(frozen=True)
class Rebuild:
    """A column shard that is not up to date.

    Attributes:
        why: in words.
        decode: clips that have to be decoded for it.
        lost: of these, how many cannot be, because their media were not kept in the store, or their tar is missing or
            of another size. Files of a folder (`--source dir:`) are not counted: they are where they were.
        broken: of the lost ones, how many were kept: their tar can be restored.
    """

    split: str
    shard: int
    column: str
    why: str
    decode: int
    lost: int
    broken: int = 0


def plan_rebuild(
    store: Store, splits: Sequence[str] = (), columns: Sequence[str] = (), shards: Sequence[int] | None = None
) -> Iterator[Rebuild]:
    """Every column shard that the next run makes anew, in order.

    Args:
        splits, columns: by their full names; none for all.
        shards: numbers; None for all.

    Raises:
        StoreError: no such split, or a shard that none of them has.
        StorageError: a plan, ledger or manifest cannot be read.
    """
    store.require_splits(*splits)
    chosen = splits or store.splits()
    require_shards(store, chosen, shards or ())
    specs = [store.read_spec(column) for column in columns or store.columns()]
    for split in chosen:
        states = [state for state in planned_states(store, split) if shards is None or state.shard in shards]
        sizes = read_states(store, states, [spec.column for spec in specs])
        for state in states:
            stale = [spec for spec in specs if state.ledger and not state.is_current(spec.column, spec.digest)]
            if stale:
                ledger = read_ledger(store, split, state.shard)
                rows = [row for row in ledger.rows if row.status == FETCHED] if ledger else []
                spooled = Spool(store, split, state.shard).positions()
                tars = ledger.tars if ledger else {}
                folder = store.media_folder(split)
                whole = {name for name, tar in tars.items() if sizes.get(f"{folder}/{name}") == tar["size"]}
                gone = {row.position for row in rows if not _at_hand(row, whole, spooled)}
                for spec in stale:
                    yield _rebuild(store, state, spec.column, rows, gone)


def _rebuild(store: Store, state: ShardState, column: str, rows: Sequence[LedgerRow], gone: set[int]) -> Rebuild:
    manifest = read_manifest(store, column, state.split, state.shard)
    if manifest is None:
        why, needed = "not computed yet", list(rows)
    elif column in state.lost:
        why, needed = f"{manifest.summary['tar']['name']} is missing or of another size", list(rows)
    else:
        there = {row.key: (row.media_sha256, row.media_start_ms) for row in manifest.rows}
        needed = [row for row in rows if there.get(row.key) != (row.media_sha256, row.media_start_ms)]
        out = len(there.keys() - {row.key for row in rows})
        reasons = [f"{len(needed)} clips fetched since"] if needed else []
        reasons += [f"{out} clips taken out since"] if out else []
        why = " and ".join(reasons) or "labels corrected: only the json is written anew"
    lost = [row for row in needed if row.position in gone]
    broken = sum(row.tar is not None for row in lost)
    return Rebuild(state.split, state.shard, column, why, len(needed), len(lost), broken)


def _at_hand(row: LedgerRow, whole: set[str], spooled: set[int]) -> bool:
    """Whether a clip's media can be read, as far as listings tell."""
    return row.tar in whole if row.tar is not None else row.origin == "dir" or row.position in spooled


def require_shards(store: Store, splits: Sequence[str], shards: Sequence[int]) -> None:
    """Checks that each shard is one of some split. Raises StoreError naming the first that is not."""
    if not shards:
        return
    counts = {split: store.shard_count(split) for split in splits}
    beyond = [shard for shard in shards if shard >= max(counts.values(), default=0)]
    if beyond:
        there = ", ".join(f"{split} has {count:,}" for split, count in counts.items()) or "nothing is planned"
        raise StoreError(f"no shard {beyond[0]} (they count from 0): {there}")


def parse_shards(text: str) -> list[int]:
    """The numbers of `3,7-9`. Raises StoreError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,7})(?:-(\d{1,7}))?", part.strip())
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise StoreError(f"expected shards such as 3,7-9, got {text!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return sorted(set(found))
