"""A range-capable HTTP server on 127.0.0.1 with scripted faults: what demo, tests and benchmarks fetch from.

    with LoopbackServer(folder, routes={"/gone.mp4": Route(status=404)}) as server:
        requests.get(server.url + "/clip.mp4")
        server.log()

Other processes read the log as JSON from `/__log__`. From a shell: `python -m pipeline.loopback FOLDER --port 0`.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from pipeline.loopback_handler import ConnectionServer, Handler, LogEntry, Route

__all__ = ["HTML_PAGE", "LogEntry", "LoopbackServer", "RequestLimit", "Route", "html_page"]

HTML_PAGE = (
    b"<!DOCTYPE html>\n<html><head><title>Not here</title></head><body>This video is unavailable.</body></html>\n"
)


def html_page(content_type: str = "text/html") -> Route:
    """A page where media should be, with status 200."""
    return Route(data=HTML_PAGE, content_type=content_type)


@dataclass(frozen=True)
class _Requests:
    """What was asked for under one path so far."""

    count: int
    first_s: float


@dataclass(frozen=True)
class RequestLimit:
    """How many requests each address may send; past it everything is answered with 429 for a while.

    Attributes:
        requests: in any `window_s` seconds.
        ban_s: for how long it answers 429 then.
        says_when: whether that comes with a `Retry-After`.
    """

    requests: int
    window_s: float
    ban_s: float
    says_when: bool = True


class LoopbackServer:
    """The server; it runs in threads of its own between `with` and its end.

    Args:
        folder: files to serve, None for none.
        routes: scripted paths, each with its leading slash.
        port: 0 for any that is free.
        bytes_per_s: pace of every body; None: as fast as it goes.
        latency_s: wait before every answer, in seconds.
        limit: of each address.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        routes: Mapping[str, Route] | None = None,
        *,
        port: int = 0,
        bytes_per_s: float | None = None,
        latency_s: float = 0.0,
        limit: RequestLimit | None = None,
    ) -> None:
        self.limit = limit
        self._asked: dict[str, deque[float]] = {}
        self._banned: dict[str, float] = {}
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.stopping = threading.Event()
        self._folder = Path(folder).resolve() if folder is not None else None
        self._routes = dict(routes or {})
        self._lock = threading.Lock()
        self._entries: list[LogEntry] = []
        self._seen: dict[str, _Requests] = {}
        self._server = ConnectionServer(("127.0.0.1", port), Handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="loopback", daemon=True)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving; hanging and slow answers are cut off."""
        self.stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def set_route(self, path: str, route: Route) -> None:
        """Scripts a path anew, from its next request on."""
        with self._lock:
            self._routes[path] = route
            self._seen.pop(path, None)

    def log(self, path: str | None = None) -> list[LogEntry]:
        """The requests so far, as they have come; with `path` those for it."""
        with self._lock:
            return [replace(entry) for entry in self._entries if path in (None, entry.path)]

    def log_json(self) -> bytes:
        """The log as a JSON list, which `/__log__` answers with."""
        return json.dumps([asdict(entry) for entry in self.log()]).encode()

    def clear_log(self) -> None:
        """Forgets the requests so far; scripted counts and times go on."""
        with self._lock:
            self._entries.clear()

    def traffic(self) -> int:
        """Body bytes sent in the logged requests."""
        return sum(entry.bytes for entry in self.log())

    def record(self, entry: LogEntry) -> None:
        """Adds a request to the log; its entry goes on changing until the request ends."""
        with self._lock:
            self._entries.append(entry)

    def refusal(self, client: str) -> Route | None:
        """The answer to an address that has sent too many requests; None where it may go on. Counts this one."""
        if self.limit is None:
            return None
        now = time.monotonic()
        with self._lock:
            asked = self._asked.setdefault(client, deque())
            asked.append(now)
            while asked[0] <= now - self.limit.window_s:
                asked.popleft()
            if len(asked) > self.limit.requests and now >= self._banned.get(client, 0.0):
                self._banned[client] = now + self.limit.ban_s
            left = self._banned.get(client, 0.0) - now
        if left <= 0:
            return None
        return Route(status=429, retry_after=str(math.ceil(left)) if self.limit.says_when else None)

    def next_route(self, path: str) -> Route:
        """How this request for a path is answered; counts it."""
        now = time.monotonic()
        with self._lock:
            route = self._routes.get(path)
            if route is None:
                return Route()
            seen = self._seen.get(path, _Requests(0, now))
            self._seen[path] = _Requests(seen.count + 1, seen.first_s)
        often = route.times is not None and seen.count >= route.times
        late = route.seconds is not None and now - seen.first_s >= route.seconds
        return Route(data=route.data) if often or late else route

    def file(self, path: str) -> Path | None:
        """The file that a path names; None if there is none, or if it lies outside the folder."""
        if self._folder is None or "\0" in path:
            return None
        file = (self._folder / path.lstrip("/")).resolve()
        return file if file.is_relative_to(self._folder) and file.is_file() else None


def main() -> None:
    """Serves a folder until interrupted; the first line of output is the address."""
    parser = argparse.ArgumentParser(description="Range-capable HTTP server on 127.0.0.1 with scripted faults.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--routes", type=Path, help='JSON: {"/a.mp4": {"status": 429, "retry_after": "5", "times": 3}}')
    arguments = parser.parse_args()
    scripted = json.loads(arguments.routes.read_text()) if arguments.routes else {}
    routes = {path: Route(**fields) for path, fields in scripted.items()}
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    with LoopbackServer(arguments.folder, routes, port=arguments.port) as server:
        print(server.url, flush=True)  # noqa: T201 - the entry's answer
        done.wait()


if __name__ == "__main__":
    main()
