"""What is left to do in a store: which shards to fetch for, which column shards to compute. Read from footers only."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from pipeline.columns import Column
from pipeline.failures import Cause
from pipeline.splits import Split
from stores import survey as stored
from stores.layout import Store


@dataclass
class ShardState(stored.ShardState):
    """A shard as the store has it, and what is left to do for it."""

    def fetch_due(self, now: datetime, retry: frozenset[Cause]) -> datetime | None:
        """When something of this shard is to be fetched (`now` or before: at once); None when nothing is."""
        if self.ledger is None or any(cause in retry for cause in self.ledger["failed"]):
            return now
        waiting = self.ledger["next_attempt"]
        return None if waiting is None else datetime.fromisoformat(waiting)

    def stale(self, columns: Sequence[Column]) -> list[Column]:
        """The columns that are not up to date with the ledger; none before there is one."""
        if self.ledger is None:
            return []
        return [column for column in columns if not self.is_current(column.name, column.spec.digest)]

    def again(self, columns: Sequence[Column], statuses: Set[str]) -> bool:
        """Whether a column has clips of such a status, which are to be computed again."""
        found = [self.manifests[column.name]["counts"] for column in columns if column.name in self.manifests]
        return any(counts[status] for counts in found for status in statuses)


def survey(store: Store, splits: Sequence[Split], columns: Sequence[Column]) -> list[ShardState]:
    """Every shard's state. One listing per folder and one small read per ledger and manifest.

    Raises:
        StorageError: something in the store cannot be read.
    """
    states = [
        ShardState(split.name, shard, _planned(split, shard, store), split.labels_digests[shard])
        for split in splits
        for shard in range(split.shards)
    ]
    stored.read_states(store, states, [column.name for column in columns])
    return states


def _planned(split: Split, shard: int, store: Store) -> int:
    size = store.config.shard_size
    return min(size, len(split.plan) - shard * size)
