"""One exchange with a server: redirects, statuses, limits, and the count of what it cost."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from pipeline.clip import FetchOptions
from pipeline.failures import Cause, FetchFailure
from pipeline.http_session import new_session
from pipeline.loopback import LoopbackServer, Route
from pipeline.transfer import RemoteUrl, Spending, Stream, body

BODY = bytes(range(256)) * 1000
OPTIONS = FetchOptions(proxy="", read_timeout_s=2)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session(OPTIONS) as session:
        yield session


class _Echo(BaseHTTPRequestHandler):
    """Answers with the header that it was sent, compressed by its own account where the path says so."""

    def do_GET(self) -> None:
        text = str(self.headers).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        if self.path == "/gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def failure(remote: RemoteUrl) -> FetchFailure:
    with pytest.raises(FetchFailure) as caught:
        remote.get(0, 99)
    return caught.value


def test_redirects_are_followed_counted_and_remembered(session: requests.Session) -> None:
    routes = {
        "/a": Route(status=302, location="b?sig=1"),
        "/b": Route(status=307, location="/c"),
        "/c": Route(data=BODY),
    }
    with LoopbackServer(routes=routes) as server:
        spending = Spending(OPTIONS)
        remote = RemoteUrl(session, server.url + "/a", spending)
        assert b"".join(body(remote.get(0, 99), 100, spending)) == BODY[:100]
        assert (spending.requests, spending.traffic) == (3, 100)
        assert b"".join(body(remote.get(100, 149), 50, spending)) == BODY[100:150]
        assert (spending.requests, spending.traffic) == (4, 150)
        assert [entry.path for entry in server.log()] == ["/a", "/b", "/c", "/c"]


def test_redirects_end(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(status=302, location="/a")}) as server:
        caught = failure(RemoteUrl(session, server.url + "/a", Spending(OPTIONS)))
        assert caught.cause == Cause.UNREACHABLE
        assert "redirects" in caught.words
        assert len(server.log()) == 6


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:video/mp4,x"])
def test_redirects_stay_with_http(session: requests.Session, target: str) -> None:
    with LoopbackServer(routes={"/a": Route(status=302, location=target)}) as server:
        assert failure(RemoteUrl(session, server.url + "/a", Spending(OPTIONS))).cause == Cause.UNREACHABLE


def test_credentials_do_not_follow_to_another_host(session: requests.Session, echo: str) -> None:
    headers = {"Authorization": "Bearer S3CRET", "Cookie": "id=S3CRET", "X-Other": "kept"}
    with LoopbackServer(routes={"/a": Route(status=302, location=echo + "/there")}) as server:
        spending = Spending(OPTIONS)
        away = b"".join(body(RemoteUrl(session, server.url + "/a", spending, headers).get(0, 9), None, spending))
        home = b"".join(body(RemoteUrl(session, echo + "/here", spending, headers).get(0, 9), None, spending))
    assert b"S3CRET" not in away
    assert b"X-Other: kept" in away
    assert home.count(b"S3CRET") == 2
    assert b"Range: bytes=0-9" in home
    assert b"Accept-Encoding: identity" in home


@pytest.mark.parametrize(("status", "cause"), [(404, Cause.GONE), (429, Cause.THROTTLED), (500, Cause.UNREACHABLE)])
def test_other_statuses_are_failures(session: requests.Session, status: int, cause: Cause) -> None:
    with LoopbackServer(routes={"/a": Route(status=status, retry_after="9")}) as server:
        caught = failure(RemoteUrl(session, server.url + "/a", Spending(OPTIONS)))
    assert caught.cause == cause
    assert caught.retry_after_s == (None if status == 404 else 9)


def test_an_empty_file_and_a_compressed_one_are_unreachable(session: requests.Session, echo: str) -> None:
    with LoopbackServer(routes={"/empty": Route(data=b"")}) as server:
        assert failure(RemoteUrl(session, server.url + "/empty", Spending(OPTIONS))).cause == Cause.UNREACHABLE
    assert "compressed" in failure(RemoteUrl(session, echo + "/gzip", Spending(OPTIONS))).words


def test_time_and_traffic_are_limited_over_all_requests(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY), "/slow": Route(data=BODY, bytes_per_s=50_000)}) as server:
        spending = Spending(FetchOptions(proxy="", max_bytes=150_000))
        remote = RemoteUrl(session, server.url + "/a", spending)
        list(body(remote.get(0, 99_999), 100_000, spending))
        with pytest.raises(FetchFailure, match="undecodable: too large.*0.15 MB"):
            list(body(remote.get(0, 99_999), 100_000, spending))
        spending = Spending(FetchOptions(proxy="", deadline_s=0.4, read_timeout_s=5))
        began = time.monotonic()
        with pytest.raises(FetchFailure, match=r"unreachable: not fetched within 0.4 s"):
            list(body(RemoteUrl(session, server.url + "/slow", spending).get(0, 199_999), None, spending))
        assert time.monotonic() - began < 2
        with pytest.raises(FetchFailure, match=r"not fetched within"):
            remote = RemoteUrl(session, server.url + "/a", spending)
            remote.get(0, 1)


def test_a_stream_is_pulled_only_as_far_as_it_is_read(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY * 8, ranges=False)}) as server:
        spending = Spending(OPTIONS)
        stream = Stream(RemoteUrl(session, server.url + "/a", spending).get(0, 99), spending)
        assert stream.announced == len(BODY) * 8
        assert stream.read_at(1000, 50) == BODY[1000:1050]
        assert spending.traffic < 200_000
        assert stream.read_at(0, 10) == BODY[:10]
        assert stream.read_at(300_000, 10) == (BODY * 2)[300_000:300_010]
        assert stream.read_to_end() == len(BODY) * 8
        assert stream.read_at(len(BODY) * 8, 10) == b""
        stream.close()
        assert (spending.traffic, spending.requests) == (len(BODY) * 8, 1)


def test_a_stream_without_a_length_ends_with_its_connection(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY, ranges=False, sends_length=False)}) as server:
        spending = Spending(OPTIONS)
        stream = Stream(RemoteUrl(session, server.url + "/a", spending).get(0, 99), spending)
        assert stream.announced is None
        assert stream.read_to_end() == len(BODY)
        stream.close()


@pytest.fixture
def odd_server() -> Iterator[Callable[[bytes], str]]:
    """Serves raw bytes, then drips zeros for as long as anybody reads, and closes: no answer of it is kept alive."""
    answers: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65_536)
                    connection.sendall(answers[0])
                    while b"200 OK" in answers[0]:
                        connection.sendall(b"0")
                        time.sleep(0.05)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def url(answer: bytes) -> str:
        answers[:] = [answer]
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

    yield url
    listener.close()


@pytest.mark.parametrize(
    "header",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n",
    ],
)
def test_a_body_that_drips_until_it_closes_ends_with_the_deadline(
    session: requests.Session, odd_server: Callable[[bytes], str], header: bytes
) -> None:
    spending = Spending(FetchOptions(proxy="", read_timeout_s=2, deadline_s=1.0))
    began = time.monotonic()
    response = RemoteUrl(session, odd_server(header), spending).get(0, 99_999)
    with pytest.raises(FetchFailure) as caught:
        for _ in body(response, None, spending):
            pass
    assert caught.value.cause is Cause.UNREACHABLE
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("location", [b"http://[::1/", b"http://\xff\xfe/x", b"\xe4"])
def test_a_redirect_to_nonsense_is_the_servers_failure(
    session: requests.Session, odd_server: Callable[[bytes], str], location: bytes
) -> None:
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: " + location + b"\r\n\r\n"
    found = failure(RemoteUrl(session, odd_server(answer), Spending(OPTIONS)))
    assert found.cause is Cause.UNREACHABLE
