"""A clip that is to be removed is nowhere afterwards, the others are where they were, and nobody fetches it again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from s3_bucket import s3_bucket
from store_factory import LOGMEL, SPLIT, VIDEO, commit_column, commit_media, make_plan, make_store, media_of

from stores.forget import WORDS, forget
from stores.garbage import find_garbage
from stores.layout import Store, StoreError
from stores.ledger import FAILED, FETCHED, read_ledger
from stores.manifest import OK, read_manifest
from stores.spool import Spool
from stores.status import store_status
from stores.storage import StorageError
from stores.verify import verify

KEYS = [row["key"] for row in make_plan().to_pylist()]
KEY = KEYS[6]  # shard 1, position 1: fetched, and ok in both columns
OTHER = KEYS[8]


def problems(store: Store) -> list[object]:
    return [problem for checked in verify(store, media=True) for problem in checked.problems]


def holding(root: Path, key: str) -> list[str]:
    """Files that have a clip's media or are tars that name it."""
    found = []
    for path in sorted(item for item in root.rglob("*") if item.is_file()):
        data = path.read_bytes()
        if media_of(key) in data or (path.suffix == ".tar" and key.encode() in data):
            found.append(str(path.relative_to(root)))
    return found


def row_of(store: Store, key: str) -> Any:
    number = KEYS.index(key)
    ledger = read_ledger(store, SPLIT, number // 5)
    assert ledger is not None
    return ledger.rows[number % 5]


def test_a_clip_is_nowhere_afterwards(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert len(holding(tmp_path, KEY)) == 3
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.tar") if path.name.startswith(("00000", "00002"))}
    said = list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == []
    assert problems(store) == [] and list(find_garbage(store)) == []
    row = row_of(store, KEY)
    assert (row.status, row.cause, row.words, row.media_sha256, row.attempts) == (FAILED, "gone", WORDS, None, 1)
    for spec in (LOGMEL, VIDEO):
        manifest = read_manifest(store, spec.column, SPLIT, 1)
        assert manifest is not None and KEY not in [found.key for found in manifest.rows]
    assert all(column.current == 3 for column in store_status(store).columns)  # nothing is left to be computed
    assert {path: path.read_bytes() for path in before} == before
    assert any(re.fullmatch(rf"media/{SPLIT}/00001\.[0-9a-f]{{8}}\.tar", name) for name in said)
    # The other clips' bytes are the same at their new place.
    for key in KEYS[5:10]:
        other = row_of(store, key)
        if other.status == FETCHED:
            data = store.storage.read_range(
                f"media/{SPLIT}/{other.tar}", other.offset, other.offset + other.media_bytes
            )
            assert data == media_of(key)
    assert list(forget(store, [KEY])) == []


def test_its_column_shard_is_the_one_that_an_ingest_without_it_makes(tmp_path: Path) -> None:
    store, other = make_store(tmp_path / "a"), make_store(tmp_path / "b")
    list(forget(store, [KEY]))
    list(forget(other, [KEY]))
    other.storage.remove(other.manifest_name(LOGMEL.column, SPLIT, 1))
    commit_column(other, LOGMEL, 1)  # from the ledger without it
    tars = [read_manifest(one, LOGMEL.column, SPLIT, 1) for one in (store, other)]
    assert tars[0] is not None and tars[1] is not None
    assert tars[0].summary["tar"] == tars[1].summary["tar"] and tars[0].summary["sums"] == tars[1].summary["sums"]


def test_of_a_shard_with_several_tars_only_its_own_is_written_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    commit_media(store, 1, fetch=[4])
    ledger = read_ledger(store, SPLIT, 1)
    assert ledger is not None and len(ledger.tars) == 2
    list(forget(store, [KEYS[9]]))  # alone in the further tar
    after = read_ledger(store, SPLIT, 1)
    assert after is not None and len(after.tars) == 1 and set(after.tars) < set(ledger.tars)
    assert holding(tmp_path, KEYS[9]) == [] and len(holding(tmp_path, KEY)) == 3


def test_all_of_a_shard(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    list(forget(store, KEYS[10:]))
    ledger, manifest = read_ledger(store, SPLIT, 2), read_manifest(store, LOGMEL.column, SPLIT, 2)
    assert ledger is not None and ledger.tars == {} and {row.status for row in ledger.rows} == {FAILED}
    assert manifest is not None and manifest.rows == () and manifest.summary["tar"] is None
    assert problems(store) == [] and not list((tmp_path / "media" / SPLIT).glob("00002.*.tar"))


@pytest.mark.parametrize("cut", range(1, 9))
def test_cut_off_anywhere_the_next_call_completes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    store = make_store(tmp_path)
    Spool(store, SPLIT, 1).put(row_of(store, KEY), media_of(KEY))
    steps = 0

    def failing(name: str) -> Any:
        real = getattr(store.storage, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == cut:
                raise StorageError("cut off")
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        for name in ("publish", "publish_file", "remove"):
            patched.setattr(store.storage, name, failing(name))
        try:
            list(forget(store, [KEY, OTHER]))
        except StorageError:
            assert steps == cut
    again = list(forget(store, [KEY, OTHER]))
    assert again or steps < cut
    assert holding(tmp_path, KEY) == holding(tmp_path, OTHER) == [] and problems(store) == []
    assert store.forgotten() == {KEY, OTHER}


def test_a_column_whose_tar_is_damaged_is_removed_whole(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tar = next((tmp_path / "features" / LOGMEL.column / SPLIT).glob("00001.*.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == [] and problems(store) == []
    assert read_manifest(store, LOGMEL.column, SPLIT, 1) is None and not tar.exists()


def test_a_media_tar_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tar = next((tmp_path / "media" / SPLIT).glob("00001.*.tar"))
    data = tar.read_bytes()
    tar.write_bytes(data[:1000])
    with pytest.raises(StorageError, match=rf"{tar.name}"):
        list(forget(store, [KEY]))
    tar.write_bytes(data)
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == []


def test_what_is_no_clip_changes_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for keys in ([], [KEY, "nosuchclip1_0"]):
        with pytest.raises(StoreError):
            list(forget(store, keys))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert store.forgotten() == frozenset()


def test_a_list_that_is_damaged_is_an_error_and_never_empty(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for text in ("", "{", "[]", '{"keys": 3}'):
        store.storage.publish("forgotten.json", text.encode())
        with pytest.raises(StoreError, match=r"forgotten\.json is damaged"):
            store.forgotten()


def test_in_a_bucket(tmp_path: Path) -> None:
    with s3_bucket() as options:
        local = make_store(tmp_path / "store")
        store = Store.open_or_create("s3://bucket/store", shard_size=5, **options)
        for path in sorted((tmp_path / "store").rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                store.storage.publish(str(path.relative_to(tmp_path / "store")), path.read_bytes())
        list(forget(store, [KEY]))
        list(forget(local, [KEY]))
        assert problems(store) == [] and list(find_garbage(store)) == []
        manifests = [read_manifest(one, VIDEO.column, SPLIT, 1) for one in (store, local)]
        assert manifests[0] is not None and manifests[1] is not None
        assert manifests[0].rows == manifests[1].rows and {row.status for row in manifests[0].rows} >= {OK}
