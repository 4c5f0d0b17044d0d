"""The spool: what a shard under way has fetched or tried, clip by clip, so that a crash costs only what was in flight.

One small tar a clip, `spool/<split>/<shard>/<position>.tar`, published in one put: `<key>.json` is the clip's ledger
row and, when it was fetched and its bytes are needed, `<key>.<extension>` the media. Positions name the files because
keys may differ by case only.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from stores.layout import Store
from stores.ledger import LedgerRow
from stores.shards import pack, unpack
from stores.storage import StorageError

_TIMES = ("first_attempt", "last_attempt", "not_before")


class Spool:
    """The spool of one shard."""

    def __init__(self, store: Store, split: str, shard: int) -> None:
        self.storage = store.storage
        self.folder = store.spool_folder(split, shard)

    def _name(self, position: int) -> str:
        return f"{self.folder}/{position:05d}.tar"

    def put(self, row: LedgerRow, media: bytes | None) -> None:
        """Keeps a clip's outcome; a later outcome of the same position replaces it."""
        members = [(f"{row.key}.json", _row_to_json(row).encode())]
        if media is not None:
            members.append((f"{row.key}.{row.extension}", media))
        self.storage.publish(self._name(row.position), pack(members))

    def rows(self) -> dict[int, LedgerRow]:
        """Position → outcome so far. Media are not kept in memory; `media` reads one."""
        found: dict[int, LedgerRow] = {}
        for position in sorted(self.positions()):
            name = self._name(position)
            try:
                found[position] = _row_from_json(self._members(name)[0][1])
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise StorageError(f"{name} is not a readable spool entry: {error}") from error
        return found

    def positions(self) -> set[int]:
        """Positions with an outcome, by the listing alone."""
        names = [entry.name.rsplit("/", 1)[1] for entry in self.storage.list(self.folder)]
        return {int(name[:-4]) for name in names if name.endswith(".tar") and is_number(name[:-4])}

    def media(self, position: int) -> bytes:
        """A fetched clip's bytes. Raises StorageError when the spool does not hold them."""
        members = self._members(self._name(position))
        if len(members) < 2:
            raise StorageError(f"{self._name(position)} holds no media")
        return members[1][1]

    def remove_committed(self, rows: Sequence[LedgerRow]) -> None:
        """Removes what the ledger's rows know already; what was tried since stays for the next commit."""
        for position, row in self.rows().items():
            if position < len(rows) and row.attempts <= rows[position].attempts:
                self.storage.remove(self._name(position))
        self.storage.remove_empty_folder(self.folder)

    def remove(self) -> None:
        """Empties the spool: the shard's ledger (and columns, where media are dropped) hold all of it now."""
        self.storage.remove_folder(self.folder)

    def _members(self, name: str) -> list[tuple[str, bytes]]:
        try:
            members = list(unpack(self.storage.read(name)))
        except (tarfile.TarError, FileNotFoundError) as error:
            raise StorageError(f"{name} is not a readable spool entry: {error}") from error
        if not members:
            raise StorageError(f"{name} is an empty spool entry")
        return members


def _row_to_json(row: LedgerRow) -> str:
    raw: dict[str, Any] = asdict(row)
    for name in _TIMES:
        raw[name] = None if raw[name] is None else raw[name].isoformat()
    return json.dumps(raw)


def _row_from_json(data: bytes) -> LedgerRow:
    raw = json.loads(data)
    for name in _TIMES:
        raw[name] = None if raw[name] is None else datetime.fromisoformat(raw[name])
    names = {item.name for item in fields(LedgerRow)}
    return LedgerRow(**{name: value for name, value in raw.items() if name in names})


def is_number(name: str) -> bool:
    """Whether a name is one of ours: plain digits."""
    return name.isascii() and name.isdigit()
