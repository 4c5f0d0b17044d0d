"""Lists the clips of a store that have no media, or no feature in some column, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stores.layout import Store
from stores.ledger import FETCHED, read_ledger
from stores.manifest import OK, read_manifest


@dataclass(frozen=True)
class Loss:
    """A clip that lacks something.

    Attributes:
        key: the clip's.
        where: `media`, or the column's name.
        status: `failed` or `pending` for media; `undecodable` or `crashed` for a column.
        cause: the cause of `failed` and `pending` (README.md lists them); None for a column, or where never tried.
        attempts: fetches tried; None for a column.
        words: the source's or the decoder's last words.
    """

    split: str
    key: str
    where: str
    status: str
    cause: str | None
    attempts: int | None
    words: str | None


def losses(store: Store, splits: Sequence[str], columns: Sequence[str]) -> Iterator[Loss]:
    """Every clip that lacks media or a column's feature, in plan order; shards that nothing was tried of are left out.

    Raises:
        StorageError: a ledger or manifest cannot be read.
    """
    for split in splits:
        ledgers = store.sizes(store.media_folder(split))
        for shard in sorted(int(name.rsplit("/", 1)[1][:5]) for name in ledgers if name.endswith(".parquet")):
            ledger = read_ledger(store, split, shard)
            for row in ledger.rows if ledger else ():
                if row.status != FETCHED:
                    yield Loss(split, row.key, "media", row.status, row.cause, row.attempts, row.words)
            for column in columns:
                manifest = read_manifest(store, column, split, shard)
                for found in manifest.rows if manifest else ():
                    if found.status != OK:
                        yield Loss(split, found.key, column, found.status, None, None, found.words)
