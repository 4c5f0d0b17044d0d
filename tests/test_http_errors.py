"""What errors of requests and urllib3 are classified as."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests
import urllib3

from pipeline import http_errors  # noqa: F401 - what is tested
from pipeline.failures import Cause, ProxyDown, classify


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (requests.ConnectTimeout("slow"), Cause.UNREACHABLE),
        (requests.exceptions.SSLError("certificate"), Cause.UNREACHABLE),
        (requests.exceptions.ProxyError("proxy"), Cause.UNREACHABLE),
        (requests.exceptions.ProxyError("Tunnel connection failed: 502 Bad Gateway"), Cause.UNREACHABLE),
        (requests.exceptions.ChunkedEncodingError("cut"), Cause.UNREACHABLE),
        (urllib3.exceptions.IncompleteRead(3, 5), Cause.UNREACHABLE),
        (urllib3.exceptions.ProtocolError("reset"), Cause.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_classified(error: Exception, cause: Cause) -> None:
    assert classify(error).cause == cause


def test_a_proxy_that_answers_is_there() -> None:
    assert isinstance(classify(requests.exceptions.ProxyError("Cannot connect to proxy")), ProxyDown)
    answered = requests.exceptions.ProxyError("Tunnel connection failed: 502 Bad Gateway")
    assert not isinstance(classify(answered), ProxyDown)


def test_a_refused_connection_and_an_unknown_name_are_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(url, timeout=5, proxies={"http": ""})
    assert classify(caught.value).cause == Cause.UNREACHABLE


def answering(data: bytes | None) -> Iterator[int]:
    """A port where whoever connects is told `data` and hung up on; None: nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if data is None:
            yield int(listener.getsockname()[1])
            return
        listener.listen()

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        client.recv(1000)
                        client.sendall(data[:2])
                        if data[2:]:
                            client.recv(1000)
                            client.sendall(data[2:])

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


REFUSES = b"\x05\x00" + b"\x05\x05\x00\x01" + bytes(6)  # a SOCKS5 proxy whose server refuses the connection


# yt-dlp's import puts its own SOCKS into requests: both are tried, in processes.
ASKING = """
import sys
import requests
import pipeline.http_errors
from pipeline.clip import FetchOptions
from pipeline.failures import classify
from pipeline.http_session import new_session
if sys.argv[2] == "yt-dlp":
    import yt_dlp
with new_session(FetchOptions(proxy=f"socks5h://127.0.0.1:{sys.argv[1]}")) as session:
    try:
        session.get("http://site.example/", timeout=5)
    except (requests.RequestException, EOFError) as error:
        print(type(classify(error)).__name__, classify(error).cause)
"""


@pytest.mark.parametrize("library", ["PySocks", "yt-dlp"])
@pytest.mark.parametrize(
    ("data", "is_down"),
    [(None, True), (b"", True), (b"HT", True), (b"\x05\xff", True), (REFUSES, False)],
    ids=["nobody listens", "hangs up", "no SOCKS", "no authentication", "the server refuses"],
)
def test_a_socks_proxy_that_does_not_do_its_part_is_down(data: bytes | None, is_down: bool, library: str) -> None:
    with contextmanager(answering)(data) as port:
        command = [sys.executable, "-c", ASKING, str(port), library]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["ProxyDown" if is_down else "FetchFailure", "unreachable"], done.stderr
