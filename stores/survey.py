"""What a store holds, shard by shard, read from listings and footers only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stores.layout import Store, StoreError
from stores.manifest import is_current
from stores.plans import DIGESTS, LABELLED, labels_digests
from stores.storage import StorageError
from stores.tables import summary_of

READERS = 16  # small objects read at once; on object stores each costs a round trip
QUICK_S, ALLOWANCE_S = 1e-3, 0.02  # reads that take no longer than this each gain nothing from threads, which wait

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class ShardState:
    """A shard as the store has it.

    Attributes:
        planned: clips that the plan has for it.
        labels: the digest of its planned clips' labels, see `stores.plans.labels_digests`.
        ledger: its ledger's summary; None before the first commit.
        manifests: by column, the summary of its manifest without the sums; absent before the first commit.
        lost: columns whose committed tar is missing, or of another size than its manifest says.
        lost_media: how many of the ledger's tars are.
    """

    split: str
    shard: int
    planned: int
    labels: str
    ledger: dict[str, Any] | None = None
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    lost_media: int = 0

    def is_current(self, column: str, spec_digest: str) -> bool:
        """Whether the column's shard is there and up to date with the ledger and the plan."""
        return column not in self.lost and is_current(self.manifests.get(column), self.ledger, spec_digest, self.labels)


def planned_states(store: Store, split: str) -> list[ShardState]:
    """Every shard of a split as it is planned, in order, nothing of it read yet: from the plan's footer alone.

    Raises:
        StoreError: the split is not planned.
        StorageError: its plan cannot be read.
    """
    store.require_splits(split)
    summary, size = store.plan_summary(split) or {}, store.config.shard_size
    if DIGESTS in summary:
        clips, digests = int(summary["segments"]), tuple(summary[DIGESTS])
    else:  # written before summaries had them
        plan, _ = store.read_plan(split, LABELLED)
        clips, digests = len(plan), labels_digests(plan, size)
    if len(digests) != -(-clips // size):
        raise StorageError(f"{store.plan_name(split)}: {len(digests)} digests for {clips} clips in shards of {size}")
    return [ShardState(split, n, min(size, clips - n * size), digest) for n, digest in enumerate(digests)]


def read_states(store: Store, states: Sequence[ShardState], columns: Sequence[str]) -> dict[str, int]:
    """Fills in each state's ledger and manifests: one listing per folder, one small read per ledger and manifest.

    Returns:
        object name → bytes of everything that lies in the folders read.

    Raises:
        StorageError: something in the store cannot be read.
    """
    splits = list(dict.fromkeys(state.split for state in states))
    folders = [store.media_folder(split) for split in splits]
    folders += [store.column_folder(column, split) for split in splits for column in columns]
    sizes = {name: size for found in read_all(store.sizes, folders) for name, size in found.items()}

    def read(state: ShardState) -> None:
        name = store.ledger_name(state.split, state.shard)
        if name in sizes:
            state.ledger = summary_of(store.storage.read(name), name)
            folder, tars = store.media_folder(state.split), state.ledger["tars"]
            state.lost_media = sum(sizes.get(f"{folder}/{tar}") != facts["size"] for tar, facts in tars.items())
        for column in columns:
            name = store.manifest_name(column, state.split, state.shard)
            if name in sizes:
                summary = summary_of(store.storage.read(name), name)
                summary.pop("sums", None)  # by far its largest part: 40 kB a shard in memory for a video column
                state.manifests[column] = summary
                tar = summary["tar"]
                if tar and sizes.get(f"{store.column_folder(column, state.split)}/{tar['name']}") != tar["size"]:
                    state.lost.add(column)

    read_all(read, states)
    return sizes


def live_tars(store: Store, split: str, column: str) -> list[str]:
    """Names of the tars that a column's manifests name, in shard order; shards without one are left out.

    Raises:
        StoreError: the split is not planned.
    """
    if split not in store.splits():
        raise StoreError(f"no split {split!r} in {store.storage.uri}; it has: {', '.join(store.splits()) or 'none'}")
    folder = store.column_folder(column, split)
    manifests = [name for name in store.sizes(folder) if name.endswith(".parquet")]
    summaries = read_all(lambda name: summary_of(store.storage.read(name), name), manifests)
    return [f"{folder}/{summary['tar']['name']}" for summary in summaries if summary["tar"]]


def read_all(read: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """`read` of every item, in order: many at once where it takes its time, one by one on a quick disk, where threads
    would only wait for one another's parsing. The first error is raised as it is."""
    listed, began = list(items), time.perf_counter()
    results: list[_Result] = []
    for item in listed:
        if time.perf_counter() - began > ALLOWANCE_S + QUICK_S * len(results):
            break
        results.append(read(item))
    rest = listed[len(results) :]
    if not rest:
        return results
    with ThreadPoolExecutor(READERS) as pool:
        return results + list(pool.map(read, rest))
