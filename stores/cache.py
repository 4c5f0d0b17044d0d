"""A bounded cache of whole tars on the local disk, for stores that are not there.

Tars never change and are named by their content's sha256 here, so a cached one is right for ever. Several processes may
share a folder: files appear by a rename, are kept while somebody holds a shared lock on them, and room is made and
taken under the folder's lock. All files together never exceed the limit, those under way counted in full. The folder
has to be on a local disk: its locks are flock's.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stores.shard_index import ShardTar
from stores.storage import Storage, StorageError
from stores.tar_stream import CHUNK, TarStream
from stores.text import size_text

DEFAULT_LIMIT = 100 * 10**9
POLL_S = 0.02
MOST_WAIT_S = 600.0  # for room that other processes hold


class Lease:
    """A cached tar that nobody removes until `close`. `file`: open for reading."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def close(self) -> None:
        """Gives it back; what is mapped from it stays readable."""
        self.file.close()


class TarCache:
    """Tars on the local disk, the longest unused removed first.

    Args:
        folder: made if absent; of the cache alone.
        limit_bytes: of all files in it together.

    Raises:
        ValueError: the limit is not positive.
    """

    def __init__(self, folder: str | Path, limit_bytes: int = DEFAULT_LIMIT) -> None:
        if limit_bytes < 1:
            raise ValueError(f"expected a limit of at least one byte, got {limit_bytes}")
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def default(cls) -> TarCache:
        """In the folder for temporary files, one a user, at most half of what is free there and 100 GB."""
        folder = Path(tempfile.gettempdir(), f"avlens-tars-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise ValueError(f"expected {folder} to be ours, it belongs to another user: name a folder for the cache")
        held = sum(size for _, size, _ in _files(folder))
        free = os.statvfs(folder)
        return cls(folder, min(DEFAULT_LIMIT, (free.f_bavail * free.f_frsize + held) // 2))

    def require_room(self, tars: Sequence[ShardTar]) -> None:
        """Raises ValueError when any one of the tars is larger than the whole cache."""
        largest = max(tars, key=lambda tar: tar.size, default=None)
        if largest is not None and largest.size > self.limit_bytes:
            raise ValueError(
                f"expected a cache that holds the largest shard, {largest.name} of {size_text(largest.size)}, got a "
                f"limit of {size_text(self.limit_bytes)}: give it room for a window of shards, a few gigabytes"
            )

    def lease(self, storage: Storage, tar: ShardTar) -> Lease:
        """A tar, fetched if it is not there. Close the lease before taking another: there may be room for one only.

        Raises:
            FileNotFoundError: the store does not have it.
            ValueError: it is not of the size or content that the manifest says, or larger than the cache.
            StorageError: the store cannot be read, or no room became free.
        """
        self.require_room([tar])
        while True:
            lease = self._open(tar)
            if lease is not None:
                return lease
            self._fetch(storage, tar)

    def held_bytes(self) -> int:
        """Bytes of all its files, those under way in full; never more than the limit."""
        with self._folder_lock():
            return sum(size for _, size, _ in _files(self.folder))

    def discard(self, tar: ShardTar) -> None:
        """Removes a damaged copy; who has it mapped keeps it."""
        self._path(tar).unlink(missing_ok=True)

    def _path(self, tar: ShardTar) -> Path:
        if len(tar.sha256) != 64 or not tar.sha256.isalnum():
            raise ValueError(f"expected a sha256 of 64 hex digits, got {tar.sha256!r}")
        return self.folder / f"{tar.sha256}.tar"

    def _open(self, tar: ShardTar) -> Lease | None:
        path = self._path(tar)
        try:
            file = open(path, "rb")  # noqa: SIM115 - closed with the lease
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        status = os.fstat(file.fileno())
        # Between opening and locking it may have been removed; then the lock protects nothing.
        if not _is_at(file.fileno(), path) or status.st_size != tar.size:
            if status.st_size != tar.size:
                path.unlink(missing_ok=True)
            file.close()
            return None
        os.utime(file.fileno(), ns=(time.time_ns(), status.st_mtime_ns))  # read now; its content is as old as ever
        return Lease(file)

    def _fetch(self, storage: Storage, tar: ShardTar) -> None:
        """Downloads a tar, or waits until another thread or process has done so."""
        part = self._path(tar).with_suffix(".part")
        with open(part, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), part):
                return  # whoever had the lock is done: it is in its place now, or its download failed
            try:
                if self._path(tar).exists():
                    part.unlink()
                else:
                    self._make_room(file.fileno(), tar.size)
                    _download(storage, tar, part)
                    with self._folder_lock():  # or whoever lists the folder could see it twice, or not at all
                        os.replace(part, self._path(tar))
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _make_room(self, own: int, size: int) -> None:
        """Takes `size` bytes of the limit for the file under way, removing what is not in use, oldest use first."""
        deadline = time.monotonic() + MOST_WAIT_S
        while True:
            with self._folder_lock():
                files = sorted(_files(self.folder))
                total = sum(bytes_held for _, bytes_held, _ in files)
                for _, bytes_held, path in files:
                    if total + size <= self.limit_bytes:
                        break
                    if _remove_unused(path):
                        total -= bytes_held
                if total + size <= self.limit_bytes:
                    os.ftruncate(own, size)
                    return
            if time.monotonic() > deadline:
                raise StorageError(
                    f"no room for {size_text(size)} in {self.folder}: others hold all of it; raise the limit"
                )
            time.sleep(POLL_S)

    @contextmanager
    def _folder_lock(self) -> Iterator[None]:
        with open(self.folder / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _download(storage: Storage, tar: ShardTar, path: Path) -> None:
    """Writes a tar's bytes into a file of its size. Raises ValueError when the store holds other bytes."""
    found = storage.size(tar.name)
    if found is None:
        raise FileNotFoundError(tar.name)
    if found != tar.size:
        raise ValueError(f"expected a tar of {tar.size} bytes, found {found}")
    stream = TarStream(storage, tar.name, tar.size)
    with open(path, "r+b") as file:
        while data := stream.read(CHUNK):
            file.write(data)
    if stream.sha256 != tar.sha256:
        raise ValueError(f"expected sha256 {tar.sha256}, found {stream.sha256}")


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """(time of last use in ns, bytes, path) of what is cached or under way."""
    found = []
    for path in folder.iterdir():
        if path.suffix in (".tar", ".part"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_atime_ns, status.st_size, path))
    return found


def _remove_unused(path: Path) -> bool:
    """Removes a file that nobody holds a lock on: an idle tar, or what a dead process was downloading."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file.fileno(), path):
                return False
            path.unlink()
            return True
    except (BlockingIOError, FileNotFoundError):
        return False


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
