"""Where media are read from: tar, spool, folder; and what is said when they are nowhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_fetcher import ScriptedFetcher, segments

from pipeline.clip import FetchOptions
from pipeline.directory import DirectoryFetcher
from pipeline.media_shard import FetchPolicy, build_media_shard
from pipeline.media_source import MediaGone, MediaSource
from pipeline.permits import Unpaced
from stores.layout import Store
from stores.ledger import read_ledger
from stores.storage import StorageError

PLANNED = segments(3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open_or_create(str(tmp_path / "store"), shard_size=3)


def rows(store: Store):
    ledger = read_ledger(store, "eval", 0)
    assert ledger is not None
    return ledger.rows


@pytest.mark.parametrize(
    "policy", [FetchPolicy(), FetchPolicy(keep_media=False, keep_spool=True)], ids=["tar", "spool"]
)
def test_bytes_come_from_where_they_were_kept(store: Store, policy: FetchPolicy) -> None:
    build_media_shard(store, "eval", 0, PLANNED, Unpaced(ScriptedFetcher()), policy)
    source = MediaSource(store, "eval", 0, None)
    found = [source.load(row, segment) for row, segment in zip(rows(store), PLANNED, strict=True)]
    assert found == [b"media of " + segment.key.encode() for segment in PLANNED]


def test_files_stay_where_they_are_and_must_be_the_same_files(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for segment in PLANNED:
        (folder / f"{segment.ytid}.mp4").write_bytes(segment.key.encode())
    files = DirectoryFetcher(str(folder), FetchOptions())
    build_media_shard(store, "eval", 0, PLANNED, Unpaced(files), FetchPolicy(keep_media=False, keep_spool=True))
    source = MediaSource(store, "eval", 0, files)
    row, segment = rows(store)[1], PLANNED[1]
    path = source.load(row, segment)
    assert Path(path).read_bytes() == segment.key.encode()
    assert row.media_sha256 == hashlib.sha256(segment.key.encode()).hexdigest()
    Path(path).write_bytes(b"another")
    with pytest.raises(MediaGone, match="not the file that the ledger names"):
        source.load(row, segment)
    Path(path).unlink()
    with pytest.raises(MediaGone, match=row.key):
        source.load(row, segment)
    with pytest.raises(MediaGone, match="not kept"):
        MediaSource(store, "eval", 0, None).load(rows(store)[0], PLANNED[0])


def test_changed_bytes_in_the_store_are_never_decoded(store: Store) -> None:
    build_media_shard(store, "eval", 0, PLANNED, Unpaced(ScriptedFetcher()), FetchPolicy())
    row = replace(rows(store)[0], media_sha256="0" * 64)
    with pytest.raises(StorageError, match="not those that its ledger names"):
        MediaSource(store, "eval", 0, None).load(row, PLANNED[0])
