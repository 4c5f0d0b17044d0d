"""Parquet files: equal bytes for equal content, summaries in the footer, damage named."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.ledger import ledger_summary
from stores.storage import StorageError
from stores.tables import (
    LEDGER_SCHEMA,
    MANIFEST_SCHEMA,
    PLAN_SCHEMA,
    from_parquet,
    read_columns,
    summary_of,
    to_parquet,
)

ROW = {"position": 0, "key": "a_0", "status": "pending", "attempts": 0, "rounds": 0, "traffic": 0, "requests": 0}


def test_equal_content_gives_equal_bytes_and_the_footer_has_the_summary() -> None:
    table = pa.Table.from_pylist([ROW], LEDGER_SCHEMA)
    data = to_parquet(table, LEDGER_SCHEMA, {"b": 1, "a": [1.5, None]})
    assert data == to_parquet(table, LEDGER_SCHEMA, {"a": [1.5, None], "b": 1})
    assert summary_of(data, "x") == {"a": [1.5, None], "b": 1}
    back, summary = from_parquet(data, "x")
    assert back.schema.names == LEDGER_SCHEMA.names
    assert back.to_pylist()[0]["key"] == "a_0"
    assert summary["b"] == 1


@pytest.mark.parametrize("cut", [0, 3, 50, -1])
def test_damage_is_named(cut: int) -> None:
    data = to_parquet(pa.Table.from_pylist([ROW], LEDGER_SCHEMA), LEDGER_SCHEMA, {})
    for read in (summary_of, from_parquet):
        with pytest.raises(StorageError, match="the/file"):
            read(data[:cut], "the/file")


def test_a_foreign_parquet_file_is_refused() -> None:
    import io

    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), sink)
    with pytest.raises(StorageError, match="the/file"):
        summary_of(sink.getvalue(), "the/file")


def test_a_flipped_bit_in_the_rows_is_refused() -> None:
    rows = [{**ROW, "key": f"clip{number}_0"} for number in range(50)]
    data = bytearray(to_parquet(pa.Table.from_pylist(rows, LEDGER_SCHEMA), LEDGER_SCHEMA, {}))
    column = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(1)
    end = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size
    data[end - 3] ^= 1
    with pytest.raises(StorageError, match="the/file"):
        from_parquet(bytes(data), "the/file")


def test_a_table_that_lost_a_column_is_refused() -> None:
    data = to_parquet(pa.Table.from_pylist([ROW], LEDGER_SCHEMA), LEDGER_SCHEMA, {}).replace(b"requests", b"requesXX")
    with pytest.raises(StorageError, match="no column requests"):
        from_parquet(data, "the/file", LEDGER_SCHEMA)


def test_some_columns_are_read_alone_and_absent_ones_named() -> None:
    table = pa.Table.from_pylist([{"key": "a_0", "status": "ok"}, {"key": "b_0", "status": "crashed"}], MANIFEST_SCHEMA)
    data = to_parquet(table, MANIFEST_SCHEMA, {"shard": 3})
    found, summary = read_columns(data, "x.parquet", ["status", "key"])
    assert found.to_pylist() == [{"status": "ok", "key": "a_0"}, {"status": "crashed", "key": "b_0"}]
    assert summary == {"shard": 3}
    with pytest.raises(StorageError, match=r"x\.parquet is not a readable table of this store: no column colour"):
        read_columns(data, "x.parquet", ["key", "colour"])
    with pytest.raises(StorageError, match=r"x\.parquet"):
        read_columns(data[:-9], "x.parquet", ["key"])


@pytest.mark.parametrize("column", ["key", "status", "attempts", "position"])
def test_rows_without_what_every_row_has_are_refused_in_a_store(column: str) -> None:
    table = pa.Table.from_pylist([ROW, {**ROW, column: None}], LEDGER_SCHEMA)
    data = to_parquet(table, LEDGER_SCHEMA, ledger_summary("eval", 0, [], {}))
    for read in (from_parquet, lambda data, name: read_columns(data, name, [column])):
        read(data, "elsewhere.parquet")
        with pytest.raises(StorageError, match=f"eval/00000.parquet.*rows without {column}"):
            read(data, "media/eval/00000.parquet")


def test_lists_with_holes_are_refused_in_a_store() -> None:
    row = {"shard": 0, "position": 0, "key": "a_0", "ytid": "a", "start_ms": 0, "end_ms": 9, "mids": ["/m/1", None]}
    data = to_parquet(pa.Table.from_pylist([{**row, "labels": [0, 1]}], PLAN_SCHEMA), PLAN_SCHEMA, {})
    with pytest.raises(StorageError, match=r"plan/eval\.parquet.*rows without mids"):
        from_parquet(data, "plan/eval.parquet")
