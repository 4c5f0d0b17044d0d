"""What lies where in a store, and the file that says which format and shard size it has.

```
store.json                                       format version, shard size, seed
forgotten.json                                   keys of clips that were removed for good
plan/<split>.parquet                             every planned segment in shard order
spool/<split>/<shard>/<position>.tar             what a shard under way has fetched or tried so far
media/<split>/00000.<digest8>.tar                the clips as fetched          00000.parquet: the ledger
egress/<source>_<name>.json                      when each address may ask again
features/<column>/spec.json
features/<column>/<split>/00000.<digest8>.tar    the samples                   00000.parquet: the manifest
```
Parquet files are the commits: a tar that none of them names does not exist. See `stores/tables.py` for their columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stores.plans import DIGESTS, labels_digests
from stores.specs import Spec, canonical_json, is_column
from stores.storage import ABSENT, Conflict, Storage, Version
from stores.summaries import FORMAT
from stores.tables import PLAN_SCHEMA, from_parquet, read_columns, summary_of, to_parquet

DEFAULT_SHARD_SIZE = 512
LARGEST_SHARD = 100_000
DEFAULT_SEED = 0
PLAN_ROW_GROUP = 65_536
FORGOTTEN = "forgotten.json"
EGRESSES = "egress"
_SPLIT = re.compile(r"^[a-z0-9][a-z0-9_]{0,63}$")


class StoreError(ValueError):
    """The URI is not a store of this format, or the request does not fit the store."""


@dataclass(frozen=True)
class StoreConfig:
    """`store.json`: fixed when the store is made, because plans depend on it."""

    shard_size: int = DEFAULT_SHARD_SIZE
    seed: int = DEFAULT_SEED

    def to_json(self) -> str:
        """Canonical JSON with the format version."""
        return canonical_json({"format": FORMAT, "shard_size": self.shard_size, "seed": self.seed})


class Store:
    """One store: names of its objects, and its plan and specs. Ledgers and manifests have modules of their own."""

    def __init__(self, storage: Storage, config: StoreConfig) -> None:
        self.storage = storage
        self.config = config

    @classmethod
    def open(cls, uri: str, **options: Any) -> Store:
        """Opens an existing store. Raises StoreError when there is none, or one of another format."""
        storage = Storage(uri, **options)
        data, _ = storage.read_versioned("store.json")
        if data is None:
            raise StoreError(f"expected a store at {uri}, found no store.json there; `pipeline/ingest.py` makes one")
        return cls(storage, _parse_config(data, storage.url("store.json")))

    @classmethod
    def open_or_create(cls, uri: str, shard_size: int | None = None, seed: int | None = None, **options: Any) -> Store:
        """Opens a store, or makes it with the given (or default) shard size and seed.

        Raises:
            StoreError: the store exists with another shard size or seed than asked for.
        """
        storage = Storage(uri, **options)
        asked = StoreConfig(
            DEFAULT_SHARD_SIZE if shard_size is None else shard_size, DEFAULT_SEED if seed is None else seed
        )
        if not 1 <= asked.shard_size <= LARGEST_SHARD:
            raise StoreError(f"expected a shard size of 1 to {LARGEST_SHARD}, got {asked.shard_size}")
        try:
            storage.publish("store.json", asked.to_json().encode(), if_version=ABSENT)
            return cls(storage, asked)
        except Conflict:
            store = cls.open(uri, **options)
        found = store.config
        for name, wanted, has in (("shard size", shard_size, found.shard_size), ("seed", seed, found.seed)):
            if wanted is not None and wanted != has:
                raise StoreError(
                    f"{uri} was made with {name} {has}, not {wanted}: leave the flag out or use another store"
                )
        return store

    # ---------------------------------------------------------------- names

    def plan_name(self, split: str) -> str:
        """The plan of a split."""
        return f"plan/{check_split(split)}.parquet"

    def spool_folder(self, split: str, shard: int | None = None) -> str:
        """Where a shard under way keeps what it has; without a shard, the split's spool."""
        return f"spool/{check_split(split)}" + ("" if shard is None else f"/{shard:05d}")

    def ledger_name(self, split: str, shard: int) -> str:
        """The ledger of a media shard."""
        return f"media/{check_split(split)}/{shard:05d}.parquet"

    def media_tar_name(self, split: str, shard: int, digest8: str) -> str:
        """One of a media shard's tars."""
        return f"media/{check_split(split)}/{shard:05d}.{digest8}.tar"

    def media_folder(self, split: str) -> str:
        """Where a split's media tars and ledgers lie."""
        return f"media/{check_split(split)}"

    def manifest_name(self, column: str, split: str, shard: int) -> str:
        """The manifest of a column shard."""
        return f"features/{column}/{check_split(split)}/{shard:05d}.parquet"

    def column_folder(self, column: str, split: str) -> str:
        """Where a column's tars and manifests of a split lie."""
        return f"features/{column}/{check_split(split)}"

    def column_tar_name(self, column: str, split: str, shard: int, digest8: str) -> str:
        """A column shard's tar."""
        return f"features/{column}/{check_split(split)}/{shard:05d}.{digest8}.tar"

    # ---------------------------------------------------------------- what is there

    def splits(self) -> list[str]:
        """Planned splits, sorted."""
        names = [entry.name.rsplit("/", 1)[1] for entry in self.storage.list("plan")]
        stems = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
        return [stem for stem in stems if _SPLIT.match(stem)]  # somebody's backup copy is none

    def columns(self) -> list[str]:
        """Columns, sorted by name; an empty folder is none."""
        names = [entry.name.rsplit("/", 1)[1] for entry in self.storage.list("features")]
        return [name for name in names if is_column(name) and self.storage.list(f"features/{name}")]

    def sizes(self, folder: str) -> dict[str, int]:
        """Object name → bytes, directly below a folder (`media/eval`, `features/<column>/eval`)."""
        return {entry.name: entry.size for entry in self.storage.list(folder) if entry.size >= 0}

    # ---------------------------------------------------------------- clips that are never fetched again

    def forgotten(self) -> frozenset[str]:
        """Keys of clips that were removed for good. Raises StoreError where the list is damaged."""
        return frozenset(self._forgotten()[0])

    def add_forgotten(self, keys: Iterable[str]) -> None:
        """Puts clips onto that list; it only ever grows."""
        while True:
            there, version = self._forgotten()
            now = sorted({*there, *keys})
            if now == there:
                return
            with suppress(Conflict):
                self.storage.publish(FORGOTTEN, json.dumps({"keys": now}, indent=1).encode(), version)

    def _forgotten(self) -> tuple[list[str], Version]:
        data, version = self.storage.read_versioned(FORGOTTEN)
        try:
            keys = [] if data is None else json.loads(data)["keys"]
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError("expected keys as a list of texts")
            return keys, version
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise StoreError(f"{self.storage.url(FORGOTTEN)} is damaged: restore it ({error!r})") from error

    # ---------------------------------------------------------------- plans and specs

    def write_plan(self, split: str, plan: pa.Table, summary: dict[str, Any]) -> tuple[str, ...]:
        """Publishes a split's plan (rows of `PLAN_SCHEMA` in shard order) with its summary, and its labels' digests in
        that, so that nobody has to read two million rows to tell what is stale. Returns the digests, by shard."""
        digests = labels_digests(plan, self.config.shard_size)
        data = to_parquet(plan, PLAN_SCHEMA, {**summary, DIGESTS: digests}, PLAN_ROW_GROUP)
        self.storage.publish(self.plan_name(split), data)
        return digests

    def read_plan(self, split: str, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
        """A split's plan, or some columns of it, and its summary. Raises StoreError naming the splits there are."""
        data, _ = self.storage.read_versioned(self.plan_name(split))
        if data is None:
            raise self._no_split(split)
        if columns is not None:
            return read_columns(data, self.plan_name(split), columns)
        return from_parquet(data, self.plan_name(split), PLAN_SCHEMA)

    def plan_summary(self, split: str) -> dict[str, Any] | None:
        """The summary of a split's plan, None when it is not planned."""
        data, _ = self.storage.read_versioned(self.plan_name(split))
        return None if data is None else summary_of(data, self.plan_name(split))

    def shard_count(self, split: str) -> int:
        """How many shards a split is planned in. Raises StoreError naming the splits there are."""
        summary = self.plan_summary(split)
        if summary is None:
            raise self._no_split(split)
        return -(-int(summary["segments"]) // self.config.shard_size)

    def require_splits(self, *names: str) -> None:
        """Checks that splits are planned. Raises StoreError naming the one that is not, and the splits there are."""
        there = self.splits()
        for name in names:
            if name not in there:
                raise StoreError(f"{self.storage.uri} has no split {name}; it has: {', '.join(there) or 'none'}")

    def _no_split(self, split: str) -> StoreError:
        return StoreError(f"no split {split!r} in {self.storage.uri}; it has: {', '.join(self.splits()) or 'none'}")

    def write_spec(self, spec: Spec) -> None:
        """Publishes a column's spec; one that is there changes nothing, a damaged one is restored."""
        name, data = f"features/{spec.column}/spec.json", spec.to_json().encode()
        if self.storage.read_versioned(name)[0] != data:
            self.storage.publish(name, data)

    def read_spec(self, column: str) -> Spec:
        """A column's spec. Raises StoreError naming the columns there are."""
        data, _ = self.storage.read_versioned(f"features/{column}/spec.json")
        if data is None and column in self.columns():
            raise StoreError(f"features/{column} has no spec.json: restore it; an ingest of this column does, too")
        if data is None:
            raise StoreError(
                f"no column {column!r} in {self.storage.uri}; it has: {', '.join(self.columns()) or 'none'}"
            )
        name = self.storage.url(f"features/{column}/spec.json")
        try:
            spec = Spec.from_json(data.decode())
            if spec.column != column:
                raise ValueError("its constants are not those that the column's name is the digest of")
        except ValueError as error:
            raise StoreError(f"{name} is damaged: restore it; an ingest of this column does, too ({error})") from error
        return spec

    def resolve_column(self, text: str) -> str:
        """A column by full name, or by its feature's name where that is unambiguous (`logmel`).

        Raises:
            StoreError: no such column, or several: the message lists them.
        """
        columns = self.columns()
        found = [text] if text in columns else [name for name in columns if name.rsplit("-", 1)[0] == text]
        if len(found) == 1:
            return found[0]
        what = f"several columns {text!r}" if found else f"no column {text!r}"
        raise StoreError(f"{what} in {self.storage.uri}; name one of: {', '.join(found or columns) or 'none'}")


def check_split(split: str) -> str:
    """Returns the name. Raises StoreError unless it is a plain lower-case word that cannot leave its folder."""
    if not _SPLIT.match(split):
        raise StoreError(f"expected a split name of a-z, 0-9 and _ (at most 64), got {split!r}")
    return split


def _parse_config(data: bytes, name: str) -> StoreConfig:
    try:
        raw = json.loads(data)
        found = raw["format"]
        if found == FORMAT:
            size, seed = raw["shard_size"], raw["seed"]
            if not isinstance(size, int) or not 1 <= size <= LARGEST_SHARD or not isinstance(seed, int):
                raise ValueError(f"expected a shard size of 1 to {LARGEST_SHARD} and a whole seed, got {size}, {seed}")
            return StoreConfig(size, seed)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{name} is not a store's description: {error!r}") from error
    raise StoreError(
        f"{name} has format {found!r}, this program reads format {FORMAT}: use the avlens release that wrote the store"
    )
