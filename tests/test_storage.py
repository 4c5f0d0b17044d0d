"""The storage gate: whole or nothing, conditional replace, fresh listings, on disk and on a bucket."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from s3_bucket import s3_bucket

from stores.storage import ABSENT, Conflict, Storage, StorageError


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store"))


def test_names_cannot_leave_the_store(storage: Storage) -> None:
    for name in ("../x", "a/../../x", "/etc/passwd", "a//b", ""):
        with pytest.raises(ValueError, match="relative object name"):
            storage.publish(name, b"")


def test_publish_then_read_whole_and_in_part(storage: Storage) -> None:
    storage.publish("a/b.bin", b"0123456789")
    assert storage.read("a/b.bin") == b"0123456789"
    assert storage.read_range("a/b.bin", 3, 6) == b"345"
    assert storage.size("a/b.bin") == 10
    assert storage.size("a/none") is None


def test_a_range_beyond_the_end_is_an_error_and_not_fewer_bytes(storage: Storage) -> None:
    storage.publish("a", b"0123")
    with pytest.raises(StorageError, match="expected 6 bytes"):
        storage.read_range("a", 2, 8)


def test_a_failed_write_leaves_the_old_object_and_no_part(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.publish("a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.publish("a", b"new")
    monkeypatch.undo()
    assert storage.read("a") == b"old"
    assert list(Path(storage.root, ".tmp").iterdir()) == []


def test_only_the_first_of_many_writers_creates(storage: Storage) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def write(i: int) -> None:
        start.wait()
        try:
            storage.publish("commit", b"%d" % i, if_version=ABSENT)
            won.append(i)
        except Conflict:
            pass

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read("commit") == b"%d" % won[0]


def test_a_stale_version_is_refused_and_a_fresh_one_replaces(storage: Storage) -> None:
    storage.publish("m", b"1", if_version=ABSENT)
    data, version = storage.read_versioned("m")
    assert data == b"1"
    storage.publish("m", b"2", if_version=version)
    with pytest.raises(Conflict):
        storage.publish("m", b"3", if_version=version)
    assert storage.read("m") == b"2"


def test_what_is_absent_has_the_absent_version(storage: Storage) -> None:
    assert storage.read_versioned("nothing/here") == (None, ABSENT)


def test_listing_shows_objects_and_folders_but_no_scratch(storage: Storage) -> None:
    storage.publish("x/2", b"22")
    storage.publish("x/1", b"1")
    storage.publish("x/deep/3", b"")
    with storage.scratch_file() as scratch:
        scratch.write_bytes(b"half")
        found = [(entry.name, entry.size) for entry in storage.list("x")]
        assert found == [("x/1", 1), ("x/2", 2), ("x/deep", -1)]
        assert [entry.name for entry in storage.list("")] == ["x"]
    assert storage.list("none") == []


def test_a_file_that_was_built_aside_moves_in_whole(storage: Storage) -> None:
    with storage.scratch_file() as scratch:
        scratch.write_bytes(b"tar")
        assert storage.size("media/a.tar") is None
        storage.publish_file(scratch, "media/a.tar")
    assert storage.read("media/a.tar") == b"tar"
    with pytest.raises(RuntimeError), storage.scratch_file() as scratch:
        scratch.write_bytes(b"half")
        raise RuntimeError
    assert list(Path(storage.root, ".tmp").iterdir()) == []


def test_remove_is_calm_about_what_is_not_there(storage: Storage) -> None:
    storage.publish("f/a", b"")
    storage.remove("f/none")
    storage.remove_folder("g")
    storage.remove_folder("f")
    assert storage.list("f") == []


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a real S3 server process on loopback."""
    with s3_bucket() as options:
        yield lambda prefix: Storage(f"s3://bucket/{prefix}", **options)


def test_s3_publishes_in_one_put_and_on_conditions(bucket) -> None:
    storage = bucket("one")
    storage.publish("m", b"1", if_version=ABSENT)
    with pytest.raises(Conflict):
        storage.publish("m", b"again", if_version=ABSENT)
    _, version = storage.read_versioned("m")
    storage.publish("m", b"2", if_version=version)
    with pytest.raises(Conflict):
        storage.publish("m", b"3", if_version=version)
    assert storage.read("m") == b"2"
    assert storage.read_range("m", 0, 1) == b"2"


def test_s3_listings_see_what_another_client_wrote(bucket) -> None:
    ours, theirs = bucket("two"), bucket("two")
    ours.publish("f/a", b"1")
    assert [entry.name for entry in ours.list("f")] == ["f/a"]
    theirs.publish("f/b", b"22")
    assert [(entry.name, entry.size) for entry in ours.list("f")] == [("f/a", 1), ("f/b", 2)]
    assert ours.list("nowhere") == []


def test_s3_takes_files_and_forgets_folders(bucket, tmp_path: Path) -> None:
    storage = bucket("three")
    with storage.scratch_file() as scratch:
        scratch.write_bytes(b"x" * 1000)
        storage.publish_file(scratch, "media/a.tar")
    assert storage.size("media/a.tar") == 1000
    assert storage.url("media/a.tar") == "s3://bucket/three/media/a.tar"
    storage.remove_folder("media")
    assert storage.size("media/a.tar") is None
    assert storage.read_versioned("media/a.tar") == (None, ABSENT)


def test_s3_without_credentials_is_a_storage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    storage = Storage("s3://bucket/x", client_kwargs={"endpoint_url": "http://127.0.0.1:9"}, skip_instance_cache=True)
    with pytest.raises(StorageError, match="NoCredentialsError"):
        storage.read("m")


def test_what_lies_below_a_file_is_absent(storage: Storage) -> None:
    storage.publish("a", b"1")
    assert storage.read_versioned("a/b") == (None, ABSENT)
    assert storage.size("a/b") is None
    assert storage.list("a/b") == []


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    storage = Storage(str(tmp_path / "file" / "store"))
    with pytest.raises(StorageError, match="cannot be written"):
        storage.publish("a/b", b"x")
    with pytest.raises(StorageError, match=f"^{tmp_path}/file/store/.tmp cannot be written"), storage.scratch_file():
        pass
    assert storage.read_versioned("a/b")[0] is None


def test_a_full_disk_under_a_scratch_file_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), Storage(str(tmp_path)).scratch_file():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), Storage(str(tmp_path)).scratch_file():
        raise PermissionError(errno.EPERM, "ours")


def test_what_killed_writers_left_days_ago_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stores.storage._swept", set())
    folder = tmp_path / ".tmp"
    folder.mkdir()
    old, young, other = folder / ("a" * 32), folder / ("b" * 32), folder / "mine"
    for path in (old, young, other):
        path.write_text("x")
    for path in (old, other):
        os.utime(path, (1, 1))
    with Storage(str(tmp_path)).scratch_file():
        pass
    assert not old.exists() and young.exists() and other.exists()
