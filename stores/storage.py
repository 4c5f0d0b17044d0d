"""The one gate to disks and buckets: atomic publish, conditional replace, range reads, fresh listings.

Everything the project stores goes through `Storage`; nothing else opens a file of a store for writing. Three rules hold
on every backend:

- an object is visible whole or not at all (on disk: write aside, fsync, `os.replace`; on S3 and friends: one put);
- an object can be replaced on the condition that it is still the one that was read (`Version`), so that two jobs on
  one store cannot overwrite each other's commit;
- a listing is never taken from a cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

SCRATCH = ".tmp"
LOCK = ".lock"
ABANDONED_S = 3 * 86_400.0  # no writer takes days for a file
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # what a disk that is built on can come up with
# What object stores' own libraries raise beside OSError: no credentials, no way to the endpoint.
LIBRARY_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


class StorageError(Exception):
    """The store could not be read or written. Never the fault of a clip: it passes every loop over clips."""


class Conflict(StorageError):  # noqa: N818 - a condition that callers handle, not an error report
    """The object is not the one that was read any more: somebody else committed first."""


def is_scratch(name: str) -> bool:
    """Whether an object under `SCRATCH` is one that a writer of ours made."""
    return re.fullmatch("[0-9a-f]{32}", name.rsplit("/", 1)[-1]) is not None


@dataclass(frozen=True)
class Version:
    """Names one state of one object: an ETag on S3, a content digest on disk. `Version(None)` is "absent"."""

    tag: str | None


ABSENT = Version(None)


@dataclass(frozen=True)
class Entry:
    """One object of a listing.

    Attributes:
        name: relative to the store's root, with `/` between parts.
        size: bytes; -1 for a folder.
        modified: when it was written, Unix seconds; None where the backend does not say.
    """

    name: str
    size: int
    modified: float | None = field(default=None, compare=False)


class Storage:
    """A tree of objects below one fsspec URI.

    Args:
        uri: a directory or any fsspec URI (`s3://bucket/prefix`, `gs://…`, `memory://…`).
        options: keyword arguments for the fsspec file system (endpoint, credentials).
    """

    def __init__(self, uri: str, **options: Any) -> None:
        self.fs, root = fsspec.url_to_fs(uri, use_listings_cache=False, **options)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.root: str = os.path.abspath(root) if self.is_local else root.rstrip("/")
        self.uri = self.root if self.is_local else uri.rstrip("/")
        # A backend's library is loaded by now, if it is there at all.
        loaded = [(sys.modules[module], name) for module, name in LIBRARY_ERRORS if module in sys.modules]
        self._failures = (OSError, *(getattr(module, name) for module, name in loaded))
        self._is_s3 = "s3" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def path(self, name: str) -> str:
        """The backend's own path of an object. Raises ValueError for a name that would leave the store."""
        parts = name.split("/")
        if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"expected a relative object name such as 'media/eval/00000.parquet', got {name!r}")
        return f"{self.root}/{name}"

    def url(self, name: str) -> str:
        """A URI that other tools open: a plain path on disk, `s3://…` elsewhere."""
        return self.path(name) if self.is_local else f"{self.uri}/{name}"

    # ---------------------------------------------------------------- reading

    def read(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError when it is absent, StorageError when the backend fails."""
        with self._errors(name):
            if self.is_local:  # a third of the time of a survey of thousands of shards
                return Path(self.path(name)).read_bytes()
            return bytes(self.fs.cat_file(self.path(name)))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object. Raises StorageError when it holds fewer."""
        with self._errors(name):
            data = bytes(self.fs.cat_file(self.path(name), start=start, end=end))
        if len(data) != end - start:
            raise StorageError(f"{self.url(name)}: expected {end - start} bytes at {start}, it holds {len(data)}")
        return data

    def read_versioned(self, name: str) -> tuple[bytes | None, Version]:
        """An object's bytes (None when absent) and the version to name in `publish(if_version=…)`."""
        try:
            # The version is taken before the bytes: if the object changes in between, the later publish is refused.
            with self._errors(name):
                version = self._remote_version(name) if not self.is_local else ABSENT
            data = self.read(name)
        except (FileNotFoundError, NotADirectoryError):
            return None, ABSENT
        return data, (_content_version(data) if self.is_local else version)

    def size(self, name: str) -> int | None:
        """Size in bytes, None when the object is absent."""
        try:
            with self._errors(name):
                if self.is_local:
                    return os.stat(self.path(name)).st_size
                return int(self.fs.info(self.path(name), refresh=True)["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def modified(self, name: str) -> float | None:
        """When an object was written, Unix seconds; None when it is absent, or where the backend does not say."""
        try:
            with self._errors(name):
                if self.is_local:
                    return os.stat(self.path(name)).st_mtime
                return _modified(self.fs.info(self.path(name), refresh=True))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, prefix: str) -> list[Entry]:
        """Objects and folders directly below a folder, sorted by name; folders have size -1. Empty when absent.

        Names that begin with a dot are left out, but for those below `.tmp`, where writers build their files.
        """
        base = self.path(prefix) if prefix else self.root
        try:
            with self._errors(prefix):
                if self.is_local:
                    with os.scandir(base) as scan:
                        found = [entry for entry in map(_scanned, scan) if entry is not None]
                else:
                    self.fs.invalidate_cache(base)
                    listed = self.fs.ls(base, detail=True)
                    found = [
                        (
                            str(i["name"]).rstrip("/").rsplit("/", 1)[-1],
                            -1 if i["type"] == "directory" else i["size"],
                            _modified(i),
                        )
                        for i in listed
                        if str(i["name"]).rstrip("/") != base.rstrip("/")
                    ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        lead = f"{prefix}/" if prefix else ""
        seen = [Entry(lead + name, size, at) for name, size, at in found if not name.startswith(".")]
        return sorted(seen, key=lambda entry: entry.name)

    # ---------------------------------------------------------------- writing

    def publish(self, name: str, data: bytes, if_version: Version | None = None) -> None:
        """Writes one object atomically.

        Args:
            if_version: None writes in any case; `ABSENT` only where nothing is yet; a `Version` only where the object
                is still that one.

        Raises:
            Conflict: the condition does not hold (somebody else committed).
            StorageError: the backend failed; the object is as it was.
        """
        with self._errors(name, writing=True):
            if self.is_local:
                self._publish_local(name, data, if_version)
            else:
                self._publish_remote(name, data, if_version)

    def publish_file(self, source: Path, name: str) -> None:
        """Moves a finished local file (of `scratch_file`) into the store, atomically and durably."""
        with self._errors(name, writing=True):
            if self.is_local:
                with open(source, "rb") as file:
                    os.fsync(file.fileno())
                os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
                os.replace(source, self.path(name))
                _sync_folder(os.path.dirname(self.path(name)))
            else:
                self.fs.put_file(str(source), self.path(name))
                source.unlink()

    def require_room(self, size: int) -> None:
        """Checks that so many bytes can be written: a bucket has room. Raises StorageError where a disk has less."""
        if self.is_local and (free := shutil.disk_usage(self.root).free) < size:
            words = f"{free:,} bytes are free, {size:,} are wanted before anything is asked for"
            raise StorageError(f"{self.root}: {words}: {os.strerror(errno.ENOSPC)}")

    @contextlib.contextmanager
    def scratch_file(self) -> Iterator[Path]:
        """A path to build a file at, on the store's own disk where there is one; removed if it was not published.

        What killed writers left there days ago is removed on the way.
        """
        folder = Path(self.root, SCRATCH) if self.is_local else Path(tempfile.gettempdir(), "avlens-scratch")
        with self._errors(str(folder), writing=True):
            folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise StorageError(f"{path}: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes an object; an absent one is no error."""
        with contextlib.suppress(FileNotFoundError), self._errors(name):
            self.fs.rm_file(self.path(name))

    def remove_empty_folder(self, name: str) -> None:
        """Removes a folder that nothing is in (buckets have none); one that somebody has just written to stays."""
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Removes a folder and all below it; an absent one is no error."""
        with contextlib.suppress(FileNotFoundError), self._errors(name):
            if self.is_local:
                shutil.rmtree(self.path(name))
            else:
                self.fs.invalidate_cache()
                self.fs.rm(self.path(name), recursive=True)

    # ---------------------------------------------------------------- backends

    def _publish_local(self, name: str, data: bytes, if_version: Version | None) -> None:
        target = self.path(name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with self.scratch_file() as scratch:
            with open(scratch, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._local_lock() if if_version is not None else contextlib.nullcontext():
                if if_version is not None:
                    self._require_local(target, if_version)
                os.replace(scratch, target)
        _sync_folder(os.path.dirname(target))

    def _publish_remote(self, name: str, data: bytes, if_version: Version | None) -> None:
        extra: dict[str, Any] = {}
        if if_version is not None and if_version.tag is None:
            extra = {"mode": "create"}
        elif if_version is not None and self._is_s3:
            extra = {"IfMatch": if_version.tag}
        elif if_version is not None and self._remote_version(name) != if_version:
            raise Conflict(f"{self.url(name)} was changed by another writer")
        try:
            self.fs.pipe_file(self.path(name), data, **extra)
        except FileExistsError as error:
            raise Conflict(f"{self.url(name)} was created by another writer") from error
        except OSError as error:
            # s3fs hands S3's 412 (and 409, two conditional writes at once) on as an OSError without a number.
            if any(word in str(error) for word in ("PreconditionFailed", "pre-conditions", "ConditionalRequest")):
                raise Conflict(f"{self.url(name)} was changed by another writer") from error
            raise

    def _remote_version(self, name: str) -> Version:
        self.fs.invalidate_cache()
        info = self.fs.info(self.path(name))
        for tag in ("ETag", "etag", "generation", "md5Hash", "mtime", "created"):
            if info.get(tag):
                return Version(str(info[tag]))
        return Version(str(info.get("size")))

    def _require_local(self, target: str, expected: Version) -> None:
        try:
            current = _content_version(Path(target).read_bytes())
        except FileNotFoundError:
            current = ABSENT
        if current != expected:
            raise Conflict(f"{target} was changed by another writer")

    @contextlib.contextmanager
    def _local_lock(self) -> Iterator[None]:
        with open(os.path.join(self.root, LOCK), "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _errors(self, name: str, writing: bool = False) -> Iterator[None]:
        """Backend errors become StorageError; "absent" stays FileNotFoundError for readers, who ask about it."""
        path = os.path.join(self.root, name)  # scratch files of a bucket lie elsewhere: their names are whole paths
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            if not writing:
                raise
            raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
        except self._failures as error:
            raise StorageError(f"{path}: {type(error).__name__}: {error}") from error


def _content_version(data: bytes) -> Version:
    return Version(hashlib.sha256(data).hexdigest())


def _scanned(entry: os.DirEntry[str]) -> tuple[str, int, float | None] | None:
    """An entry of a local listing; None for one that was removed since, and for a link to nowhere or in a circle."""
    try:
        facts = entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return None
    return entry.name, -1 if entry.is_dir() else facts.st_size, facts.st_mtime


_swept: set[Path] = set()


def _sweep(folder: Path) -> None:
    """Removes scratch files that nobody has written to for days; once in a process, and whatever fails is left."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if is_scratch(path.name) and time.time() - path.stat().st_mtime > ABANDONED_S:
                    path.unlink()


def _modified(info: dict[str, Any]) -> float | None:
    """When an object of a bucket was written; each library has another name for it."""
    for name in ("LastModified", "updated", "mtime", "created"):
        found = info.get(name)
        if isinstance(found, str):
            found = datetime.fromisoformat(found)
        if isinstance(found, datetime):
            return found.timestamp() if found.tzinfo else found.replace(tzinfo=UTC).timestamp()
        if isinstance(found, int | float):
            return float(found)
    return None


def _sync_folder(folder: str) -> None:
    """Makes a rename durable: POSIX keeps it in the folder, which has to be synced by itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
