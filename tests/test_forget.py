"""A clip that is to be removed is nowhere afterwards, the others are where they were, and nobody fetches it again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from s3_bucket import s3_bucket
from scripted_fetcher import ScriptedFetcher
from store_factory import (
    LOGMEL,
    SPLIT,
    VIDEO,
    commit_column,
    commit_media,
    make_plan,
    make_store,
    media_of,
    plan_store,
)

from stores.forget import WORDS, forget
from stores.garbage import find_garbage
from stores.layout import Store, StoreError
from stores.ledger import FAILED, FETCHED, read_ledger
from stores.manifest import OK, read_manifest
from stores.rebuild import plan_rebuild
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


def writes(store: Store, cut: int) -> int:
    """Forgets a clip with the store's `cut`-th write failing; how many writes it came to."""
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

    with pytest.MonkeyPatch.context() as patched:
        for name in ("publish", "publish_file", "remove"):
            patched.setattr(store.storage, name, failing(name))
        try:
            list(forget(store, [KEY]))
            assert cut == 0 or steps < cut
        except StorageError:
            assert steps >= cut
    return steps


def test_cut_off_at_any_write_the_next_call_completes_it(tmp_path: Path) -> None:
    def spooled(number: int) -> Store:
        store = make_store(tmp_path / str(number))
        Spool(store, SPLIT, 1).put(row_of(store, KEY), media_of(KEY))
        return store

    total = writes(spooled(0), 0)
    assert total == 11  # list, spool, two for the media, two for each column, three tars that are named no more
    for cut in range(1, total + 1):
        store = spooled(cut)
        writes(store, cut)
        list(forget(store, [KEY]))
        assert holding(tmp_path / str(cut), KEY) == [], cut
        assert problems(store) == [] and store.forgotten() == {KEY}, cut


def test_a_column_whose_tar_is_not_whole_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tar = next((tmp_path / "features" / LOGMEL.column / SPLIT).glob("00001.*.tar"))
    tar.write_bytes(tar.read_bytes()[:1000])
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == []
    manifest = read_manifest(store, LOGMEL.column, SPLIT, 1)
    assert manifest is not None and manifest.rows == ()
    assert [found.why for found in plan_rebuild(store)] == ["2 clips fetched since"]


def test_a_damaged_sample_of_another_clip_gets_no_fresh_checksum(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tar = next((tmp_path / "features" / LOGMEL.column / SPLIT).glob("00001.*.tar"))
    manifest = read_manifest(store, LOGMEL.column, SPLIT, 1)
    assert manifest is not None
    other = next(row for row in manifest.rows if row.status == OK and row.key != KEY)
    data = bytearray(tar.read_bytes())
    data[(other.array_offset or 0) + 300] ^= 1
    tar.write_bytes(data)
    list(forget(store, [KEY]))
    after = read_manifest(store, LOGMEL.column, SPLIT, 1)
    assert after is not None and other.key not in [row.key for row in after.rows]
    assert [(found.column, found.decode) for found in plan_rebuild(store)] == [(LOGMEL.column, 1)]


def test_a_bucket_that_fails_for_a_moment_costs_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)

    def failing(*_: object) -> bytes:
        raise StorageError("503")

    with monkeypatch.context() as patched:
        patched.setattr("stores.forget._sample", failing)
        with pytest.raises(StorageError, match="503"):
            list(forget(store, [KEY]))
    assert read_manifest(store, LOGMEL.column, SPLIT, 1) is not None
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == [] and problems(store) == []


def test_features_go_also_where_media_of_others_are_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    tar = next((tmp_path / "media" / SPLIT).glob("00001.*.tar"))
    data = tar.read_bytes()
    tar.write_bytes(data[: data.index(media_of(OTHER)) + 10])
    with pytest.raises(StorageError, match=tar.name):
        list(forget(store, [KEY]))
    assert [name for name in holding(tmp_path, KEY) if not name.startswith("media/")] == []
    tar.write_bytes(data)
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == [] and problems(store) == []


def test_what_killed_writers_left_goes_too(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    left = tmp_path / ".tmp" / ("a" * 32)
    left.write_bytes(b"x" * 5_000_000 + KEY.encode() + b".mp4" + media_of(KEY))
    (tmp_path / ".tmp" / ("b" * 32)).write_bytes(b"other")
    spooled = Spool(store, SPLIT, 1)
    spooled.put(row_of(store, KEY), media_of(KEY))
    (tmp_path / spooled.folder / "00003.tar").write_bytes(b"not readable")
    list(forget(store, [KEY]))
    assert not left.exists() and (tmp_path / ".tmp" / ("b" * 32)).exists() and holding(tmp_path, KEY) == []


def test_a_shard_that_is_being_fetched_begins_again_without_it(tmp_path: Path) -> None:
    """The clip is removed while its shard, which has no ledger yet, is fetched; and while its features are computed."""
    from pipeline.media_shard import FetchPolicy, build_media_shard
    from pipeline.permits import Unpaced
    from pipeline.splits import stored_split

    store = plan_store(tmp_path)
    segments = stored_split(store, SPLIT).segments(1)
    fetcher = ScriptedFetcher()
    fetcher.before = lambda segment: list(forget(store, [KEY])) if segment.key == OTHER else None
    policy = FetchPolicy(threads=1, wait_s=0.0)
    with pytest.raises(StorageError):
        build_media_shard(store, SPLIT, 1, segments, Unpaced(fetcher), policy)
    fetcher.before = lambda segment: None
    done = build_media_shard(store, SPLIT, 1, segments, Unpaced(fetcher), policy)
    assert done.committed and done.summary["fetched"] == 4 and done.summary["failed"] == {"gone": 1}
    list(forget(store, [KEY]))
    tars = list((tmp_path / "media" / SPLIT).glob("00001.*.tar"))
    assert len(tars) == 1 and KEY.encode() not in tars[0].read_bytes()


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


def test_media_whose_ledger_is_missing_keep_their_other_clips(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    ledger, tars = tmp_path / store.ledger_name(SPLIT, 1), sorted((tmp_path / "media" / SPLIT).glob("00001.*.tar"))
    kept = ledger.read_bytes()
    ledger.unlink()
    with pytest.raises(StorageError, match="is missing: restore it"):
        list(forget(store, [KEY]))
    assert sorted((tmp_path / "media" / SPLIT).glob("00001.*.tar")) == tars and not ledger.exists()
    assert all(KEY not in path for path in holding(tmp_path / "features", KEY)) and KEY in store.forgotten()
    ledger.write_bytes(kept)
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == [] and problems(store) == []


def test_a_damaged_neighbour_keeps_no_clip_from_leaving(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    row = row_of(store, OTHER)
    (tar,) = (path for path in (tmp_path / "media" / SPLIT).glob("*.tar") if path.name == row.tar)
    data = bytearray(tar.read_bytes())
    data[row.offset] ^= 1
    tar.write_bytes(data)
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == []
    assert OTHER in str(problems(store))  # still damaged, and still said to be


def test_tables_of_two_shards_swapped_cost_no_media(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    paths = [tmp_path / store.ledger_name(SPLIT, shard) for shard in (0, 1)]
    one, two = (path.read_bytes() for path in paths)
    paths[0].write_bytes(two)
    paths[1].write_bytes(one)
    before = sorted((tmp_path / "media").rglob("*.tar"))
    with pytest.raises(StorageError, match="another one's"):
        list(forget(store, [KEY]))
    assert sorted((tmp_path / "media").rglob("*.tar")) == before
    for path, data in zip(paths, (one, two), strict=True):
        path.write_bytes(data)
    list(forget(store, [KEY]))
    assert holding(tmp_path, KEY) == [] and problems(store) == []


def test_somebodys_notes_among_the_scratch_files_stay(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / ".tmp").mkdir(exist_ok=True)
    (tmp_path / ".tmp/notes.txt").write_text(KEY)
    list(forget(store, [KEY]))
    assert (tmp_path / ".tmp/notes.txt").exists()
