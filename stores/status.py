"""What a store holds, in numbers: read from listings and footers, so that it takes seconds on thousands of shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stores.layout import EGRESSES, Store
from stores.ledger import FAILED, FETCHED, PENDING
from stores.manifest import CRASHED, OK, UNDECODABLE
from stores.specs import Spec
from stores.spool import Spool, is_number
from stores.storage import StorageError
from stores.summaries import FORMAT
from stores.survey import ShardState, planned_states, read_all, read_states

AT_ONCE = datetime.fromtimestamp(0, UTC).isoformat()  # what a ledger says of clips that wait for nothing


@dataclass(frozen=True)
class TarCounts:
    """A folder's tars: those that a commit names, those that none names, and those named that are not there whole."""

    live: int
    live_bytes: int
    garbage: int
    garbage_bytes: int
    lost: int


@dataclass(frozen=True)
class SplitStatus:
    """A split's plan and media.

    Attributes:
        shards, clips: planned.
        committed: media shards with a ledger.
        failed, pending: clips by cause; `untried` where there is none yet.
        next_attempt: when the first pending clip may be tried (ISO, UTC; 1970: at once); None when none is pending.
        spool_shards, spool_clips: shards under way, and clips whose outcome their spools hold.
        media_bytes: of all fetched clips, kept or not.
        tars: of the media shards.
    """

    split: str
    shards: int
    clips: int
    committed: int
    fetched: int
    failed: dict[str, int]
    pending: dict[str, int]
    next_attempt: str | None
    spool_shards: int
    spool_clips: int
    media_bytes: int
    tars: TarCounts


@dataclass(frozen=True)
class ColumnStatus:
    """A column's shards in one split.

    Attributes:
        current, stale, missing: shards up to date, out of date, and without a manifest.
        ok, undecodable, crashed: clips in all manifests. `ok` ones are the samples of the live tars.
        flags: clips without sound (`no_audio`), without picture (`no_video`), `mute`, `still`, `short`.
    """

    column: str
    array: str
    split: str
    current: int
    stale: int
    missing: int
    ok: int
    undecodable: int
    crashed: int
    flags: dict[str, int]
    tars: TarCounts


@dataclass(frozen=True)
class EgressStatus:
    """An address that was fetched from, as its last job noted.

    Attributes:
        shut_until: when its breaker lets the next request through (ISO, UTC); None where it is not open.
        gap_s: seconds between two clips that throttling has taught; 0 where it has not.
    """

    egress: str
    shut_until: str | None
    gap_s: float


@dataclass(frozen=True)
class StoreStatus:
    """A store's description, its splits, its columns by column and split, and the egresses of its ingests."""

    format: int
    shard_size: int
    seed: int
    splits: tuple[SplitStatus, ...]
    columns: tuple[ColumnStatus, ...]
    egresses: tuple[EgressStatus, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def store_status(store: Store) -> StoreStatus:
    """Counts everything.

    Raises:
        StorageError: a plan, ledger or manifest cannot be read.
    """
    specs = [store.read_spec(column) for column in store.columns()]
    splits: list[SplitStatus] = []
    columns: list[ColumnStatus] = []
    for split in store.splits():
        states = planned_states(store, split)
        sizes = read_states(store, states, [spec.column for spec in specs])
        splits.append(_split_status(store, split, states, sizes))
        columns += [_column_status(store, spec, split, states, sizes) for spec in specs]
    columns.sort(key=lambda status: (status.column, status.split))
    config = store.config
    return StoreStatus(FORMAT, config.shard_size, config.seed, tuple(splits), tuple(columns), _egresses(store))


def _egresses(store: Store) -> tuple[EgressStatus, ...]:
    """From the journals of `pipeline/gatekeeper.py`; one that cannot be read says nothing."""
    found = []
    for entry in store.storage.list(EGRESSES):
        if entry.size < 0 or not entry.name.endswith(".json"):
            continue
        try:
            journal = json.loads(store.storage.read(entry.name))
            opened, gap = (float(journal.get(name, 0)) for name in ("opened_until", "learnt_gap_s"))
            until = datetime.fromtimestamp(opened, UTC).isoformat() if opened > 0 else None
        except (StorageError, FileNotFoundError, ValueError, TypeError, AttributeError, OverflowError, OSError):
            continue
        found.append(EgressStatus(entry.name.rsplit("/", 1)[1].removesuffix(".json"), until, gap))
    return tuple(found)


def _split_status(store: Store, split: str, states: Sequence[ShardState], sizes: dict[str, int]) -> SplitStatus:
    ledgers = [state.ledger for state in states if state.ledger is not None]
    failed: Counter[str] = Counter()
    pending: Counter[str] = Counter(untried=sum(state.planned for state in states if state.ledger is None))
    for ledger in ledgers:
        failed.update(ledger[FAILED])
        pending.update(ledger[PENDING])
    waits = [AT_ONCE if state.ledger is None else state.ledger["next_attempt"] for state in states]
    folder = store.media_folder(split)
    named = {f"{folder}/{name}": tar["size"] for ledger in ledgers for name, tar in ledger["tars"].items()}
    under_way = _spooled(store, split)
    return SplitStatus(
        split=split,
        shards=len(states),
        clips=sum(state.planned for state in states),
        committed=len(ledgers),
        fetched=sum(ledger[FETCHED] for ledger in ledgers),
        failed=dict(sorted(failed.items())),
        pending=dict(sorted((+pending).items())),
        next_attempt=min((wait for wait in waits if wait is not None), default=None),
        spool_shards=len(under_way),
        spool_clips=sum(under_way),
        media_bytes=sum(ledger["media_bytes"] for ledger in ledgers),
        tars=_tar_counts(folder, named, sizes),
    )


def _column_status(
    store: Store, spec: Spec, split: str, states: Sequence[ShardState], sizes: dict[str, int]
) -> ColumnStatus:
    manifests = [state.manifests[spec.column] for state in states if spec.column in state.manifests]
    current = sum(state.is_current(spec.column, spec.digest) for state in states)
    counts: Counter[str] = Counter()
    flags: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest["counts"])
        flags.update(manifest["flags"])
    folder = store.column_folder(spec.column, split)
    tars = [manifest["tar"] for manifest in manifests if manifest["tar"]]
    return ColumnStatus(
        column=spec.column,
        array=f"{spec.dtype} {list(spec.shape)}",
        split=split,
        current=current,
        stale=len(manifests) - current,
        missing=len(states) - len(manifests),
        ok=counts[OK],
        undecodable=counts[UNDECODABLE],
        crashed=counts[CRASHED],
        flags=dict(flags),
        tars=_tar_counts(folder, {f"{folder}/{tar['name']}": tar["size"] for tar in tars}, sizes),
    )


def _spooled(store: Store, split: str) -> list[int]:
    """Clips in the spool of each shard that has one."""
    entries = store.storage.list(store.spool_folder(split))
    shards = [int(name) for name in (entry.name.rsplit("/", 1)[1] for entry in entries) if is_number(name)]
    return [count for count in read_all(lambda shard: len(Spool(store, split, shard).positions()), shards) if count]


def _tar_counts(folder: str, named: dict[str, int], sizes: dict[str, int]) -> TarCounts:
    there = {name: size for name, size in sizes.items() if name.endswith(".tar") and name.startswith(f"{folder}/")}
    live = {name for name, size in named.items() if there.get(name) == size}
    garbage = [size for name, size in there.items() if name not in named]
    return TarCounts(len(live), sum(named[name] for name in live), len(garbage), sum(garbage), len(named) - len(live))
