"""A list of what a store holds that can be kept, signed, and compared with that of another store.

One Parquet file: a row for every planned segment, sorted by split and key, and in its summary (key-value metadata
`avlens`) the columns' specs, the counts, and a digest of all rows. Equal stores give equal digests, wherever they lie
and in whatever order they were planned. AudioSet loses clips every month: two groups that train on what both of their
inventories have train on the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stores.layout import Store, StoreError
from stores.ledger import FETCHED
from stores.manifest import OK
from stores.specs import canonical_json
from stores.survey import read_all
from stores.tables import METADATA_KEY, read_columns

KIND, FORMAT = "avlens inventory", 1
DIGEST_ROWS = 65_536
_PLAIN = r"^[^\x00-\x1f\x7f\",]*$"  # what a segments list may hold of a stranger
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("key", pa.string()),
        ("ytid", pa.string()),
        ("start_ms", pa.int32()),
        ("end_ms", pa.int32()),
        ("mids", pa.string()),  # joined by commas, as in AudioSet's lists
        ("status", pa.string()),  # fetched | failed | pending
        ("cause", pa.string()),
        ("media_sha256", pa.string()),
        ("columns", pa.string()),  # those in which the clip is ok, joined by commas
    ]
)
_LEDGER = ("key", "status", "cause", "media_sha256")


@dataclass(frozen=True)
class Inventory:
    """A store's list.

    Attributes:
        rows: of `SCHEMA`.
        summary: `splits` (counts by status and cause), `columns` (spec by name), `rows_sha256`, `signature` or None.
    """

    rows: pa.Table
    summary: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two stores' usable clips, by key.

    Attributes:
        both: rows of the first, sorted by key, of clips that both can use.
        only_first, only_second: how many only one of them can use.
        same_media: of `both`, how many have the same bytes.
        other_labels: of `both`, how many have other labels in the second.
    """

    both: pa.Table
    only_first: int
    only_second: int
    same_media: int
    other_labels: int


def take_inventory(store: Store, splits: tuple[str, ...] = ()) -> Inventory:
    """Lists a store, or some of its splits.

    Raises:
        StoreError: no such split, or none at all.
        StorageError: a plan, ledger or manifest cannot be read.
    """
    store.require_splits(*splits)
    chosen = splits or tuple(store.splits())
    if not chosen:
        raise StoreError(f"{store.storage.uri} has no split yet")
    columns = store.columns()
    rows = pa.concat_tables([_split_rows(store, split, columns) for split in sorted(set(chosen))])
    rows = rows.sort_by([("split", "ascending"), ("key", "ascending")]).combine_chunks()
    specs = {column: json.loads(store.read_spec(column).to_json()) for column in columns}
    counts = {split: _counts(rows.filter(pc.equal(rows["split"], split))) for split in sorted(set(chosen))}
    head = {"kind": KIND, "format": FORMAT, "columns": specs, "splits": counts, "rows_sha256": rows_digest(rows)}
    return Inventory(rows, {**head, "signature": None})


def rows_digest(rows: pa.Table) -> str:
    """Hex sha256 of the rows as JSON, a line for each column of 65,536 rows: no other rows give the same text."""
    digest, rows = hashlib.sha256(), rows.combine_chunks()
    for start in range(0, len(rows), DIGEST_ROWS):
        for column in rows.slice(start, DIGEST_ROWS).columns:
            digest.update(canonical_json(column.to_pylist()).encode() + b"\n")
    return digest.hexdigest()


def write_inventory(inventory: Inventory, path: Path) -> None:
    """Writes it as a file; equal inventories give equal bytes. Raises OSError."""
    text = json.dumps(inventory.summary, sort_keys=True).encode()
    table = inventory.rows.replace_schema_metadata({METADATA_KEY: text})
    partial = path.with_name(f".{path.name}.part")
    pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
    partial.replace(path)


def read_inventory(path: Path) -> Inventory:
    """A written inventory.

    Raises:
        ValueError: it is none, or its rows are not those that its digest is of.
        OSError: it cannot be read.
    """
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read(use_threads=False)
        summary = dict(json.loads(table.schema.metadata[METADATA_KEY]))
        rows = table.select(SCHEMA.names).cast(SCHEMA)
        if (summary["kind"], summary["format"]) != (KIND, FORMAT):
            raise ValueError(f"expected {KIND} of format {FORMAT}, got {summary['kind']} of {summary['format']}")
        noted = summary["rows_sha256"]
        _check_parts(rows, summary)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no readable inventory: {error}") from error
    if rows_digest(rows) != noted:
        raise ValueError(f"{path}: its rows are not those that were listed: it was changed afterwards")
    return Inventory(rows, summary)


def _check_parts(rows: pa.Table, summary: dict[str, Any]) -> None:
    """Raises ValueError where rows or summary are not what `take_inventory` makes."""
    if not isinstance(summary["columns"], dict) or not isinstance(summary["splits"], dict):
        raise ValueError("expected columns and splits by name")
    for name in ("split", "key", "ytid", "start_ms", "end_ms", "mids", "status"):
        if rows[name].null_count:
            raise ValueError(f"expected a {name} in each row")
    for name in ("split", "key", "ytid"):
        if not pc.all(pc.match_substring_regex(rows[name], _PLAIN), min_count=0).as_py():
            raise ValueError(f"expected no quotes, commas or control characters in {name}")
    if not pc.all(pc.match_substring_regex(rows["mids"], _PLAIN.replace(",", "")), min_count=0).as_py():
        raise ValueError("expected no quotes or control characters in mids")
    keys = pc.binary_join_element_wise(rows["ytid"], pc.cast(rows["start_ms"], pa.string()), "_")
    if not pc.all(pc.equal(keys, rows["key"]), min_count=0).as_py():
        raise ValueError("expected each key to be its row's ytid and start_ms")
    if not pc.all(
        pc.and_(pc.less_equal(0, rows["start_ms"]), pc.less(rows["start_ms"], rows["end_ms"])), min_count=0
    ).as_py():
        raise ValueError("expected 0 <= start_ms < end_ms in each row")
    planned = {split: counts["planned"] for split, counts in summary["splits"].items()}
    found = Counter(rows["split"].to_pylist())
    if {split: count for split, count in planned.items() if count} != dict(found):
        raise ValueError(f"expected {planned} rows by split, got {dict(found)}")


def compare(
    first: Inventory, second: Inventory, features: tuple[str, ...] = (), splits: tuple[str, ...] = ()
) -> Comparison:
    """The clips that both stores can use: fetched, and ok in a column of each feature.

    Args:
        features: names such as `logmel`, or of columns; none asks for media only.
        splits: of both; may be left out where each has one.

    Raises:
        ValueError: no such split or feature in one of them, or several splits and none chosen: a list for training must
            not hold clips to test on.
    """
    one, two = (_usable(inventory, features, splits) for inventory in (first, second))
    shared = one.filter(pc.is_in(one["key"], two["key"])).sort_by("key").combine_chunks()
    other = two.filter(pc.is_in(two["key"], one["key"])).sort_by("key").combine_chunks()
    same_media = pc.sum(pc.equal(shared["media_sha256"], other["media_sha256"])).as_py() or 0
    labels = pc.sum(pc.not_equal(shared["mids"], other["mids"])).as_py() or 0
    return Comparison(shared, len(one) - len(shared), len(two) - len(other), same_media, labels)


def segments_csv(rows: pa.Table) -> str:
    """Rows as a list in AudioSet's form, which `pipeline/ingest.py --segments` reads."""
    mids = [text.split(",") for text in rows["mids"].to_pylist()]
    lines = [
        "# Clips that both inventories have",
        f"# num_ytids={pc.count_distinct(rows['ytid']).as_py()}, num_segs={len(rows)}, "
        f"num_unique_labels={len({mid for listed in mids for mid in listed})}, "
        f"num_positive_labels={sum(map(len, mids))}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    values = zip(*(rows[name].to_pylist() for name in ("ytid", "start_ms", "end_ms", "mids")), strict=True)
    lines += [f'{ytid}, {start / 1000:.3f}, {end / 1000:.3f}, "{labels}"' for ytid, start, end, labels in values]
    return "\n".join(lines) + "\n"


def _usable(inventory: Inventory, features: tuple[str, ...], splits: tuple[str, ...]) -> pa.Table:
    """A row for each key that can be used; of several splits' the first."""
    there = sorted(inventory.summary["splits"])
    if (not splits and len(there) > 1) or not set(splits) <= set(there):
        raise ValueError(
            f"expected --split of those that an inventory has ({', '.join(there)}), got {', '.join(splits) or 'none'}; "
            "a split has to have the same name in all of them"
        )
    rows = inventory.rows.filter(pc.equal(inventory.rows["status"], FETCHED))
    rows = rows.filter(pc.is_in(rows["split"], pa.array(splits or there, pa.string())))
    columns = sorted(inventory.summary["columns"])
    for feature in features:
        named = [column for column in columns if feature in (column, column.rsplit("-", 1)[0])]
        if not named:
            raise ValueError(f"expected a feature or column of {', '.join(columns) or 'none'}, got {feature!r}")
        padded = pc.binary_join_element_wise("", rows["columns"], "", ",")
        found = [pc.match_substring(padded, f",{column},") for column in named]
        rows = rows.filter(reduce(pc.or_, found))
    order = rows.append_column("at", pa.array(range(len(rows)), pa.int64()))
    first = order.group_by("key").aggregate([("at", "min")])
    return rows.take(first["at_min"])


def _split_rows(store: Store, split: str, columns: list[str]) -> pa.Table:
    plan, _ = store.read_plan(split)
    size = store.config.shard_size
    shards = range(-(-len(plan) // size))
    there = {name: size for folder in _folders(store, split, columns) for name, size in store.sizes(folder).items()}

    def read(shard: int) -> pa.Table:
        keys = plan["key"].slice(shard * size, size).combine_chunks()
        return _shard_rows(store, split, shard, keys, columns, there)

    found = pa.concat_tables(read_all(read, shards)) if len(plan) else _outcomes(0).schema.empty_table()
    return pa.table(
        {
            "split": pa.array([split]).take(pa.array([0] * len(plan), pa.int32())),
            **{name: plan[name] for name in ("key", "ytid", "start_ms", "end_ms")},
            "mids": pc.binary_join(plan["mids"], ","),
            **{name: found[name] for name in ("status", "cause", "media_sha256", "columns")},
        },
        SCHEMA,
    )


def _folders(store: Store, split: str, columns: list[str]) -> list[str]:
    return [store.media_folder(split), *(store.column_folder(column, split) for column in columns)]


def _shard_rows(
    store: Store, split: str, shard: int, keys: pa.Array, columns: list[str], there: dict[str, int]
) -> pa.Table:
    """What became of a shard's clips, in plan order."""
    name = store.ledger_name(split, shard)
    if name not in there:
        return _outcomes(len(keys))
    ledger, _ = read_columns(store.storage.read(name), name, _LEDGER)
    if ledger["key"].to_pylist() != keys.to_pylist():
        raise StoreError(f"{name} names other clips than the plan: `python -m stores verify` says more")
    ok: list[list[str]] = [[] for _ in range(len(keys))]
    places = {key: place for place, key in enumerate(keys.to_pylist())}
    for column in columns:
        path = store.manifest_name(column, split, shard)
        if path in there:
            manifest, summary = read_columns(store.storage.read(path), path, ("key", "status"))
            tar = summary["tar"]
            if tar and there.get(f"{store.column_folder(column, split)}/{tar['name']}") != tar["size"]:
                continue  # its samples cannot be read
            for key, status in zip(manifest["key"].to_pylist(), manifest["status"].to_pylist(), strict=True):
                if status == OK and key in places:
                    ok[places[key]].append(column)
    table = ledger.select(["status", "cause", "media_sha256"])
    return table.append_column("columns", pa.array([",".join(names) for names in ok], pa.string()))


def _outcomes(count: int) -> pa.Table:
    """Of clips that nothing is known of yet."""
    nothing = pa.nulls(count, pa.string())
    pending = pa.array(["pending"] * count, pa.string())
    return pa.table({"status": pending, "cause": nothing, "media_sha256": nothing, "columns": pa.array([""] * count)})


def _counts(rows: pa.Table) -> dict[str, Any]:
    """By status; failed and pending by cause."""
    pairs = Counter(zip(rows["status"].to_pylist(), rows["cause"].to_pylist(), strict=True))
    found: dict[str, Any] = {"planned": len(rows), FETCHED: sum(n for (s, _), n in pairs.items() if s == FETCHED)}
    for status in ("failed", "pending"):
        causes = {cause or "untried": count for (s, cause), count in pairs.items() if s == status}
        found[status] = dict(sorted(causes.items()))
    return found
