"""Makes the n-th write of a store fail, in the way that disks and object stores fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

# What a store's disk does for a commit, in the order in which it does it; a full disk may say so at any of them.
DISK_CALLS = ("write", "fsync", "replace")


class Faults:
    """Counts calls and fails the chosen one.

    Attributes:
        at: number of the call that fails, from 1; 0 for none.
        seen: calls so far.
    """

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def step(self) -> bool:
        """Whether this call is the one."""
        self.seen += 1
        return self.seen == self.at


@contextmanager
def full_disk(at: int) -> Iterator[Faults]:
    """Every call that a disk is written by may be the one for which there is no room."""
    faults = Faults(at)

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if faults.step():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        return call

    class Opened:
        """A file whose writes are counted."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self.write = failing(file.write)

        def __enter__(self) -> Any:
            self._file.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self._file.__exit__(*args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = open(path, mode, *args, **kwargs)  # noqa: SIM115 - as the caller does
        return Opened(file) if "w" in mode else file

    with pytest.MonkeyPatch.context() as patch:
        for module in ("stores.storage", "stores.shards"):
            patch.setattr(f"{module}.open", opened, raising=False)
        patch.setattr("stores.storage.os.fsync", failing(os.fsync))
        patch.setattr("stores.storage.os.replace", failing(os.replace))
        yield faults


S3_FAULTS = ("503 before", "SlowDown before", "cut before", "cut after")


@contextmanager
def failing_bucket(fs: Any, at: int, how: str) -> Iterator[Faults]:
    """One put of a bucket fails: refused, told to slow down, or cut off, before or after the object was stored.

    Args:
        fs: the s3fs file system.
        how: of `S3_FAULTS`.
    """
    faults = Faults(at)

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            chosen = faults.step()
            if chosen and how.endswith("before"):
                raise fault(how)
            found = real(*args, **kwargs)
            if chosen:
                raise fault(how)
            return found

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "pipe_file", failing(fs.pipe_file))
        patch.setattr(fs, "put_file", failing(fs.put_file))
        yield faults


def fault(how: str) -> Exception:
    """What s3fs and botocore raise for it."""
    from botocore.exceptions import ClientError, EndpointConnectionError

    if how.startswith("503"):
        return OSError(errno.EIO, "Service Unavailable")
    if how.startswith("SlowDown"):
        parsed = {"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate."}}
        error = OSError(errno.EBUSY, "Please reduce your request rate.")
        error.__cause__ = ClientError(parsed, "PutObject")  # type: ignore[arg-type]
        return error
    if how == "cut before":
        return EndpointConnectionError(endpoint_url="http://127.0.0.1:1")
    return requests.ConnectionError("Connection aborted.")
