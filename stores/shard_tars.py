"""A shard's tar as arrays: memory-mapped, and verified once per process before anything of it is given out."""

from __future__ import annotations

import io
import logging
import mmap
import os
import resource
import threading
import tokenize
from collections import defaultdict
from typing import BinaryIO

import numpy as np
import xxhash

from stores.cache import Lease, TarCache
from stores.shard_index import ShardError, ShardTar
from stores.shards import END_OF_TAR, PARSING, npy_header
from stores.storage import Storage, StorageError

logger = logging.getLogger(__name__)

# Files that were verified in this process: path, inode, time of change, checksums that it was verified against.
_verified: set[tuple[str, int, int, int]] = set()


class TarArrays:
    """An open tar. Its arrays are views of the file: copy them out.

    Attributes:
        rows: one array per sample: of a uniform tar an array [m, …], else a list.
    """

    def __init__(self, file: BinaryIO, tar: ShardTar, verify: bool, lease: Lease | None = None) -> None:
        """Maps a file. Raises ValueError, saying what was expected and found, when it is not what the manifest says."""
        status = os.fstat(file.fileno())
        if status.st_size != tar.size:
            raise ValueError(f"expected a tar of {tar.size} bytes, found {status.st_size}")
        self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self.lease = lease
        known = (file.name, status.st_ino, status.st_mtime_ns, xxhash.xxh3_64_intdigest(tar.xxh3.tobytes()))
        if verify and known not in _verified:
            _check_content(self._map, tar)
            _verified.add(known)
        self.rows: np.ndarray | list[np.ndarray] = (
            _uniform_rows(self._map, tar) if tar.uniform else _rows(self._map, tar)
        )

    def copy(self, row: int, out: np.ndarray) -> None:
        """Copies as many samples as `out` [n, …] has room for, from one on."""
        if isinstance(self.rows, np.ndarray):
            out[:] = self.rows[row : row + len(out)]
        else:
            for place in range(len(out)):
                out[place] = self.rows[row + place]


class TarFiles:
    """Opens the tars of a store. Safe to use from several threads.

    Args:
        storage: the store's.
        cache: where tars of a remote store are kept; None for a store on disk.
        verify: compare every sample of a tar with its checksum when the tar is first opened in this process.
    """

    def __init__(self, storage: Storage, cache: TarCache | None, verify: bool) -> None:
        self._storage, self._cache, self._verify = storage, cache, verify
        self._open: dict[str, TarArrays] = {}
        # Each map keeps a file descriptor; those of other readers and of everything else must fit in too.
        self._most_open = max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def acquire(self, tar: ShardTar) -> TarArrays:
        """A tar's arrays, to be handed back with `release`. Hold one at a time: a small cache has room for one.

        Raises:
            ShardError: the tar is gone, or not what the manifest says.
            StorageError: it cannot be read.
        """
        found = self._open.get(tar.name)
        if found is not None:
            return found
        with self._lock:
            lock = self._locks[tar.name]
        with lock:
            try:
                return self._open_local(tar) if self._cache is None else self._open_cached(self._cache, tar)
            except FileNotFoundError:
                raise self._error(tar, f"expected a tar of {tar.size} bytes, found no such object") from None
            except ValueError as error:
                raise self._error(tar, str(error)) from None
            except OSError as error:
                raise StorageError(f"{self._storage.url(tar.name)}: {type(error).__name__}: {error}") from error

    def release(self, arrays: TarArrays) -> None:
        """Hands a tar's arrays back: a cache may then make room."""
        if arrays.lease is not None:
            arrays.lease.close()

    def _open_local(self, tar: ShardTar) -> TarArrays:
        found = self._open.get(tar.name)
        if found is None:
            with open(self._storage.path(tar.name), "rb") as file:
                found = TarArrays(file, tar, self._verify)
            with self._lock:
                while len(self._open) >= self._most_open:
                    del self._open[next(iter(self._open))]  # who is still copying from it has it for as long
                self._open[tar.name] = found
        return found

    def _open_cached(self, cache: TarCache, tar: ShardTar) -> TarArrays:
        """A damaged copy is fetched once more: only what is damaged in the store is the shard's fault."""
        lease = cache.lease(self._storage, tar)
        try:
            return self._map_lease(lease, tar)
        except ValueError as error:
            logger.warning("%s: the cached copy is damaged (%s); it is fetched again", tar.name, error)
            cache.discard(tar)
        return self._map_lease(cache.lease(self._storage, tar), tar)

    def _map_lease(self, lease: Lease, tar: ShardTar) -> TarArrays:
        try:
            return TarArrays(lease.file, tar, self._verify, lease)
        except ValueError:
            lease.close()
            raise

    def _error(self, tar: ShardTar, reason: str) -> ShardError:
        return ShardError(self._storage.url(tar.name), reason, self._storage.uri)


def _check_content(data: mmap.mmap, tar: ShardTar) -> None:
    """Compares every sample's bytes with its checksum, in the order of the bytes. Raises ValueError at the first."""
    with memoryview(data) as view:
        starts = tar.all_places()[:, 0].tolist()
        ends = [*starts[1:], tar.size - len(END_OF_TAR)]
        for number, (start, end, expected) in enumerate(zip(starts, ends, tar.xxh3.tolist(), strict=True)):
            with view[start:end] as sample:
                found = xxhash.xxh3_64_intdigest(sample)
            if found != expected:
                raise ValueError(f"expected xxh3 {expected:016x} of sample {number} at {start}, found {found:016x}")
        if bytes(view[ends[-1] :]) != END_OF_TAR:
            raise ValueError(f"expected a tar's end of zeros at {ends[-1]}, found something else")


def _uniform_rows(data: mmap.mmap, tar: ShardTar) -> np.ndarray:
    """The arrays of a uniform tar as one strided array [m, …]."""
    _, stride, offset, length = (int(value) for value in tar.places[0])
    header = _header_bytes(data, offset, length, tar)
    headers = np.ndarray((tar.samples, header), np.uint8, data, offset, (stride, 1))
    if (headers != headers[0]).any():
        raise ValueError("expected .npy headers that are all alike, found others")
    dtype = np.dtype(tar.spec.dtype)
    inner = np.empty(tar.spec.shape, dtype).strides
    return np.ndarray((tar.samples, *tar.spec.shape), dtype, data, offset + header, (stride, *inner))


def _rows(data: mmap.mmap, tar: ShardTar) -> list[np.ndarray]:
    """The arrays of any other tar, one by one."""
    rows = []
    for offset, length in tar.places[:, 2:].tolist():
        start = offset + _header_bytes(data, offset, length, tar)
        rows.append(np.ndarray(tar.spec.shape, np.dtype(tar.spec.dtype), data, start))
    return rows


def _header_bytes(data: mmap.mmap, offset: int, length: int, tar: ShardTar) -> int:
    """Where the values begin in a .npy file. Raises ValueError when it does not hold the spec's shape and type."""
    dtype, size = np.dtype(tar.spec.dtype), int(np.prod(tar.spec.shape)) * np.dtype(tar.spec.dtype).itemsize
    header = data[offset : offset + length - size]
    if header == npy_header(tar.spec.shape, dtype.str):  # nearly always, and nothing has to be parsed
        return len(header)
    file = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version}")
        with PARSING:
            found = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError) as error:  # headers are Python literals
        raise ValueError(f"expected a .npy file at {offset}, found none ({error})") from error
    if found != (tar.spec.shape, False, dtype) or file.read(1):
        raise ValueError(f"expected {dtype} {list(tar.spec.shape)} in C order at {offset}, found {found}")
    return length - size
