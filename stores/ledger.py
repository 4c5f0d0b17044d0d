"""The ledger of a media shard: for every planned segment, what became of its clip. Committing it commits the shard."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from stores.layout import Store
from stores.storage import StorageError, Version
from stores.summaries import FORMAT
from stores.tables import LEDGER_SCHEMA, from_parquet, to_parquet

FETCHED, FAILED, PENDING = "fetched", "failed", "pending"


@dataclass(frozen=True)
class LedgerRow:
    """One planned segment; the columns are explained in `stores/tables.py`. Times are UTC."""

    position: int
    key: str
    status: str = PENDING
    cause: str | None = None
    words: str | None = None
    attempts: int = 0
    rounds: int = 0
    first_attempt: datetime | None = None
    last_attempt: datetime | None = None
    not_before: datetime | None = None
    origin: str | None = None
    extension: str | None = None
    media_sha256: str | None = None
    media_bytes: int | None = None
    media_start_ms: int | None = None
    tar: str | None = None
    offset: int | None = None
    traffic: int = 0
    requests: int = 0

    def is_due(self, now: datetime) -> bool:
        """Pending, and not to be left alone any longer."""
        return self.status == PENDING and (self.not_before is None or self.not_before <= now)


@dataclass(frozen=True)
class Ledger:
    """A committed ledger: rows in plan order, the tars they lie in (name → size and sha256), version and summary."""

    rows: tuple[LedgerRow, ...]
    tars: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: Version = field(default_factory=lambda: Version(None))
    summary: dict[str, Any] = field(default_factory=dict)


def read_ledger(store: Store, split: str, shard: int) -> Ledger | None:
    """A shard's ledger, None before its first commit. Raises StorageError when it cannot be read."""
    name = store.ledger_name(split, shard)
    data, version = store.storage.read_versioned(name)
    if data is None:
        return None
    table, summary = from_parquet(data, name, LEDGER_SCHEMA)
    names = {item.name for item in fields(LedgerRow)}
    rows = tuple(LedgerRow(**{k: v for k, v in row.items() if k in names}) for row in table.to_pylist())
    return Ledger(rows, summary["tars"], version, summary)


def commit_ledger(
    store: Store, split: str, shard: int, rows: Sequence[LedgerRow], tars: dict[str, Any], if_version: Version
) -> dict[str, Any]:
    """Publishes a ledger where the one that it was made from still stands; that is the media shard's commit.

    Returns:
        its summary.

    Raises:
        Conflict: another job committed this shard first.
        ValueError: a key twice, or rows out of plan order (a bug: nothing is written).
    """
    _check(rows)
    summary = ledger_summary(split, shard, rows, tars)
    table = pa.Table.from_pylist([asdict(row) for row in rows], LEDGER_SCHEMA)
    store.storage.publish(store.ledger_name(split, shard), to_parquet(table, LEDGER_SCHEMA, summary), if_version)
    return summary


def ledger_summary(split: str, shard: int, rows: Sequence[LedgerRow], tars: dict[str, Any]) -> dict[str, Any]:
    """What can be known of a ledger without its rows: counts, what is due when, the digest that columns compare."""
    counts = Counter(row.status for row in rows)
    waits = [row.not_before for row in rows if row.status == PENDING]
    return {
        "format": FORMAT,
        "split": split,
        "shard": shard,
        "planned": len(rows),
        FETCHED: counts[FETCHED],
        FAILED: dict(sorted(Counter(row.cause for row in rows if row.status == FAILED).items())),
        PENDING: dict(sorted(Counter(row.cause or "untried" for row in rows if row.status == PENDING).items())),
        "next_attempt": _earliest(waits),
        "input_digest": input_digest(
            (row.key, row.media_sha256, row.media_start_ms) for row in rows if row.status == FETCHED
        ),
        "tars": tars,
        "media_bytes": sum(row.media_bytes or 0 for row in rows),
        "traffic": sum(row.traffic for row in rows),
        "attempts": sum(row.attempts for row in rows),
    }


def input_digest(inputs: Iterable[tuple[str, str | None, int | None]]) -> str:
    """Digest of what a column shard is computed from: (key, media sha256, start inside the media), in any order."""
    lines = sorted(f"{key} {sha256} {'-' if start is None else start}\n" for key, sha256, start in inputs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def media_json(row: LedgerRow) -> bytes:
    """What a reader of the media tar alone needs. No times: equal clips make equal tars. Labels are in the plan."""
    names = ("key", "origin", "extension", "media_sha256", "media_bytes", "media_start_ms")
    return json.dumps({name: getattr(row, name) for name in names}, sort_keys=True).encode()


def read_media(store: Store, split: str, row: LedgerRow) -> bytes:
    """A fetched clip's bytes out of its media tar.

    Raises:
        FileNotFoundError: the tar is missing.
        StorageError: the backend failed, or the bytes are not those that the ledger names.
    """
    if row.tar is None or row.offset is None or row.media_bytes is None:
        raise StorageError(f"{store.media_folder(split)}: the ledger does not say where the media of {row.key} lie")
    name = f"{store.media_folder(split)}/{row.tar}"
    data = store.storage.read_range(name, row.offset, row.offset + row.media_bytes)
    if hashlib.sha256(data).hexdigest() != row.media_sha256:
        raise StorageError(f"{name}: the bytes of {row.key} are not those that its ledger names")
    return data


def _earliest(times: list[datetime | None]) -> str | None:
    """ISO time of the first pending clip that may be tried; the epoch where one may be tried at once."""
    if not times:
        return None
    return min(time or datetime.fromtimestamp(0, UTC) for time in times).isoformat()


def _check(rows: Sequence[LedgerRow]) -> None:
    if [row.position for row in rows] != list(range(len(rows))):
        raise ValueError("expected one ledger row for each planned position, in order")
    if len({row.key for row in rows}) != len(rows):
        raise ValueError("expected each key once in a ledger")
    for row in rows:
        if row.status not in (FETCHED, FAILED, PENDING) or (row.status == FETCHED) != (row.media_sha256 is not None):
            raise ValueError(f"ledger row {row.key}: status {row.status!r} does not fit its media")
        if row.status == FAILED and row.cause is None:
            raise ValueError(f"ledger row {row.key}: a failed clip needs a cause")
