"""Makes the n-th call of a store fail, in the way that disks and object stores fail."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from s3_bucket import s3_bucket

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


# In the words of S3's error responses; or what happens to the connection.
S3_FAULTS = ("InternalError", "ServiceUnavailable", "SlowDown", "slow", "cut before", "cut after", "cut within")
PATIENCE_S = 0.4  # of the client, for an answer


class FailingServer:
    """A WSGI server whose requests can be made to fail.

    Attributes:
        seen: requests so far, of those that `fail` counts.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app, self._lock = app, threading.Lock()
        self.heal()

    def fail(self, at: int, how: str, requests: float) -> None:
        """From the `at`-th request from now on, so many fail.

        Args:
            how: of `S3_FAULTS`.
            requests: `math.inf` for all, until `heal`.
        """
        self.seen, self._how, self._bad = 0, how, (at, at + requests)

    def heal(self) -> None:
        """From now on all is well."""
        self.fail(0, "", 0)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.seen += 1
            first, end = self._bad
            how = self._how if first <= self.seen < end else ""
        if how == "slow":  # done in the end, long after the client has given up
            time.sleep(2 * PATIENCE_S)
        elif how == "cut before":
            return self._cut(environ, start_response)
        elif how in ("InternalError", "ServiceUnavailable", "SlowDown"):
            return self._refuse(how, start_response)
        answer = self._app(environ, start_response)
        if how == "cut after":
            b"".join(answer)
            return self._cut(environ, None)
        if how == "cut within":
            body = b"".join(answer)
            return self._cut(environ, None, body[: len(body) // 2])
        return answer

    @staticmethod
    def _refuse(code: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        status = "500 Internal Server Error" if code == "InternalError" else "503 Service Unavailable"
        text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>Try later.</Message></Error>"
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
        return [text.encode()]

    @staticmethod
    def _cut(environ: dict[str, Any], start_response: Callable[..., Any] | None, body: bytes = b"") -> Iterator[bytes]:
        """Sends what there is, and hangs up."""
        if start_response is not None:
            start_response("200 OK", [])
        if body:
            yield body
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@contextmanager
def failing_bucket() -> Iterator[tuple[dict[str, Any], FailingServer]]:
    """A bucket whose server fails when told to, with the fsspec options of an impatient client."""
    import s3fs

    servers: list[FailingServer] = []

    def before(app: Any) -> FailingServer:
        servers.append(FailingServer(app))
        return servers[0]

    with s3_bucket(before=before) as options, pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "retries", 2)
        patience = {"read_timeout": PATIENCE_S, "connect_timeout": 5, "retries": {"max_attempts": 0}}
        yield {**options, "config_kwargs": patience}, servers[0]
