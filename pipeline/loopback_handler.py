"""How the loopback server answers one request: files, byte ranges, and the scripted faults."""

from __future__ import annotations

import logging
import mimetypes
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pipeline.loopback import LoopbackServer

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Route:
    """How one path answers. What is not set is as an ordinary server does it.

    Attributes:
        data: the body; None: the file of that name. A status other than 200 answers with a short text instead.
        status: of the answer.
        retry_after: value of that header.
        location: value of that header, for a 3xx status.
        content_type: None: guessed from the name.
        ranges: whether `Range` is understood; otherwise the whole body comes with a 200.
        sends_length: whether `Content-Length` is sent; otherwise the connection's end is the body's.
        bytes_per_s: pace of the body; None: as fast as it goes.
        header_bytes_per_s: pace of the header.
        truncate_at: body bytes after which the connection is cut, whatever was announced.
        hang: the request is taken and never answered.
        times: only so many requests for the path get this, later ones `data` or the file as it is; None: all.
        seconds: only requests within so many seconds of the path's first one get this; None: all.
    """

    data: bytes | None = None
    status: int = 200
    retry_after: str | None = None
    location: str | None = None
    content_type: str | None = None
    ranges: bool = True
    sends_length: bool = True
    bytes_per_s: float | None = None
    header_bytes_per_s: float | None = None
    truncate_at: int | None = None
    hang: bool = False
    times: int | None = None
    seconds: float | None = None


@dataclass
class LogEntry:
    """One request, as far as it has come.

    Attributes:
        path: without its query.
        range: the `Range` header, or None.
        at: Unix time of its beginning.
        client: the address that it came from.
        status: of the answer; 0: there is none yet, or never was.
        bytes: of the body, as sent.
        seconds: how long it took; None: it is still going on.
    """

    method: str
    path: str
    range: str | None
    at: float
    client: str = ""
    status: int = 0
    bytes: int = 0
    seconds: float | None = None


class ConnectionServer(ThreadingHTTPServer):
    """A thread for each connection; can cut off all of them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], owner: LoopbackServer) -> None:
        self.owner = owner
        self._open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a thread of its own."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Cuts off what is still open."""
        for request in list(self._open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # closed meanwhile

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""
        logger.debug("request from %s ended early", client_address, exc_info=True)


class _Cut(Exception):  # noqa: N818 - no error: what was asked for
    """The connection is to be closed now."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: ConnectionServer
    timeout: ClassVar[float] = 60  # seconds that an idle connection is kept
    entry: LogEntry

    def do_GET(self) -> None:
        """Answers with header and body."""
        self._handle()

    def do_HEAD(self) -> None:
        """Answers with the header alone."""
        self._handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the overridden name
        """Writes nothing: the server keeps a log of its own."""

    def _handle(self) -> None:
        owner, began = self.server.owner, time.monotonic()
        path = unquote(urlsplit(self.path).path)
        self.entry = LogEntry(self.command, path, self.headers.get("Range"), time.time(), self.client_address[0])
        if path == "/__log__":
            self._answer(Route(), owner.log_json(), "application/json")
            return
        owner.record(self.entry)
        try:
            owner.stopping.wait(owner.latency_s)
            self._serve(owner.refusal(self.entry.client) or owner.next_route(path), path)
        except (_Cut, OSError):
            self.close_connection = True
        finally:
            self.entry.seconds = time.monotonic() - began
            logger.debug("%s", self.entry)

    def _serve(self, route: Route, path: str) -> None:
        if route.hang:
            self.server.owner.stopping.wait()
            raise _Cut
        kind = route.content_type or mimetypes.guess_type(path)[0] or "application/octet-stream"
        file = self.server.owner.file(path) if route.data is None else None
        if route.status != 200:
            self._answer(route, f"status {route.status}\n".encode(), route.content_type or "text/plain")
        elif route.data is not None:
            self._answer(route, route.data, kind)
        elif file is not None:
            self._answer(route, file, kind)
        else:
            self._answer(Route(status=404), b"no such file\n", "text/plain")

    def _answer(self, route: Route, body: bytes | Path, kind: str) -> None:
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        first, last, status = 0, size - 1, route.status
        headers = {"Content-Type": kind, "Retry-After": route.retry_after, "Location": route.location}
        if route.ranges and status == 200:
            headers["Accept-Ranges"] = "bytes"
            span = parse_range(self.headers.get("Range", ""), size)
            if span is not None:
                status = 206 if span[0] <= span[1] else 416
                first, last = span if status == 206 else (0, -1)
                headers["Content-Range"] = f"bytes {first}-{last}/{size}" if status == 206 else f"bytes */{size}"
        if route.sends_length:
            headers["Content-Length"] = str(last - first + 1)
        else:
            headers["Connection"] = "close"
        self._send_header(route, status, headers)
        if self.command != "HEAD":
            self._send_body(route, body, first, last)

    def _send_header(self, route: Route, status: int, headers: Mapping[str, str | None]) -> None:
        self.entry.status = status
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        if route.header_bytes_per_s is not None:
            # Where http.server collects the header; end_headers() sends what is left in it.
            collected: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
            drops = [bytes([byte]) for byte in b"".join(collected)]
            collected.clear()
            for _ in self._paced(iter(drops), route.header_bytes_per_s):
                pass
        self.end_headers()

    def _send_body(self, route: Route, body: bytes | Path, first: int, last: int) -> None:
        if route.truncate_at is not None:
            last = min(last, route.truncate_at - 1)
        pace = route.bytes_per_s or self.server.owner.bytes_per_s
        step = CHUNK_BYTES if pace is None else max(1, min(CHUNK_BYTES, int(pace / 20)))
        for size in self._paced(_chunks(body, first, last, step), pace):
            self.entry.bytes += size
        if route.truncate_at is not None or not route.sends_length:
            raise _Cut

    def _paced(self, chunks: Iterator[bytes], bytes_per_s: float | None) -> Iterator[int]:
        """Sends chunks; yields the size of each just before, so that no client has what the log does not know of."""
        began, sent = time.monotonic(), 0
        for chunk in chunks:
            yield len(chunk)
            self.wfile.write(chunk)
            sent += len(chunk)
            if bytes_per_s is not None:
                wait_s = began + sent / bytes_per_s - time.monotonic()
                if self.server.owner.stopping.wait(max(0.0, wait_s)):
                    raise _Cut


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single `bytes=` range, within the size; None where the header is to be ignored.

    Where nothing satisfies it, first > last. Source: RFC 9110, section 14.
    """
    unit, _, span = header.partition("=")
    first, dash, last = span.strip().partition("-")
    if unit.strip().lower() != "bytes" or not dash or not (first + last).isdigit():
        return None
    if not first:
        return (max(size - int(last), 0), size - 1) if int(last) else (size, size - 1)
    return int(first), min(int(last), size - 1) if last else size - 1


def _chunks(body: bytes | Path, first: int, last: int, step: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        for at in range(first, last + 1, step):
            yield body[at : min(at + step, last + 1)]
        return
    with body.open("rb") as file:
        file.seek(first)
        left = last - first + 1
        while left > 0 and (chunk := file.read(min(step, left))):
            left -= len(chunk)
            yield chunk
