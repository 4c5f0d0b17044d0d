"""requests sessions for media from strangers: verified TLS, no hidden retries, headers and bodies that come in time.

The time-outs of requests and urllib3 count from packet to packet, so a server that sends a byte every few seconds holds
a thread for as long as it likes. Here a timer shuts the socket down.
"""

from __future__ import annotations

import http.cookiejar
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pipeline.clip import FetchOptions


@dataclass
class Alarm:
    """Whether the time was over."""

    rang: bool = False


@contextmanager
def cut_off_after(seconds: float, connection: Any) -> Iterator[Alarm]:
    """Shuts a connection's socket down if the block takes longer; who reads from it then gets an error or its end.

    Args:
        connection: urllib3's; or a response of a session of ours, which keeps its socket even where its connection has
            given that away (HTTP/1.0, `Connection: close`); or None.
    """
    alarm = Alarm()
    sock = getattr(connection, "sock", None)
    while sock is not None and not isinstance(sock, socket.socket):
        sock = getattr(sock, "socket", None)  # TLS inside a TLS proxy
    if sock is None:
        yield alarm
        return

    def ring() -> None:
        alarm.rang = True
        # Not SSLSocket.shutdown, which would pull the TLS object away from under the reading thread.
        try:
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            return  # the other side was faster

    timer = threading.Timer(max(seconds, 0.0), ring)
    timer.daemon = True
    timer.start()
    try:
        yield alarm
    finally:
        timer.cancel()


class _PunctualHeader:
    """The whole response header must come within the read time-out."""

    def getresponse(self) -> Any:
        with cut_off_after(self.timeout or 60.0, self) as alarm:  # type: ignore[attr-defined]
            sock = self.sock  # type: ignore[attr-defined]
            try:
                response = super().getresponse()  # type: ignore[misc]
                response.sock = sock
            except OSError as error:
                if alarm.rang:
                    raise TimeoutError("the response header did not come in time") from error
                raise
        if alarm.rang:
            # http.client takes EOF inside a header for its end.
            raise TimeoutError("the response header did not come in time")
        return response


class _Connection(_PunctualHeader, HTTPConnection):
    pass


class _TlsConnection(_PunctualHeader, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def __init__(self, source_address: str | None) -> None:
        self._from = (source_address, 0) if source_address else None
        super().__init__(pool_connections=8, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, source_address=self._from)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, source_address=self._from)
        if not proxy.lower().startswith("socks"):  # whose pools make the connection through the proxy
            manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
        return manager


def new_session(options: FetchOptions) -> requests.Session:
    """A session for one thread, with the proxy, address, certificates and cookies of the options.

    Raises: ValueError where the cookie file is missing or not in Netscape format.
    """
    session = requests.Session()
    adapter = _Adapter(options.source_address)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers["User-Agent"] = options.user_agent
    session.verify = options.ca_file or True
    if options.proxy is not None:
        session.trust_env = False  # the environment's proxies would win over these
        session.proxies = {"http": options.proxy, "https": options.proxy} if options.proxy else {}
    if options.cookie_file:
        session.cookies = load_cookies(options.cookie_file)  # type: ignore[assignment]
    return session


def load_cookies(path: str) -> http.cookiejar.MozillaCookieJar:
    """The cookies of a file in Netscape format. Raises: ValueError where it is missing or in another format."""
    jar = http.cookiejar.MozillaCookieJar()
    try:
        jar.load(str(Path(path).expanduser()), ignore_discard=True, ignore_expires=True)
    except (OSError, http.cookiejar.LoadError) as error:
        raise ValueError(
            f"expected cookies in Netscape format (# Netscape HTTP Cookie File) in {path}: {error}; export them anew"
        ) from error
    for cookie in jar:
        if cookie.expires == 0:  # how browsers' exports write a session's cookies
            cookie.expires, cookie.discard = None, True
    return jar
