"""Sessions: TLS, proxies, cookies, and time-outs that a dripping server cannot stretch."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
import urllib3

from pipeline.clip import FetchOptions
from pipeline.http_session import cut_off_after, load_cookies, new_session
from pipeline.loopback import LoopbackServer, Route

COOKIES = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc\n"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{self.path}\n{self.headers.get('Cookie')}\n{self.headers['User-Agent']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        pass


@pytest.fixture
def plain_server() -> Iterator[HTTPServer]:
    yield from _serve(HTTPServer(("127.0.0.1", 0), _Answer))


def _serve(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="makes the certificate; comes with moto")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    yield from _serve(server)


def test_tls_is_verified(tls_server: HTTPServer, certificate: Path) -> None:
    url = f"https://127.0.0.1:{tls_server.server_port}/"
    with new_session(FetchOptions(proxy="")) as session, pytest.raises(requests.exceptions.SSLError):
        session.get(url, timeout=5)
    with new_session(FetchOptions(proxy="", ca_file=str(certificate))) as session:
        assert session.get(url, timeout=5).status_code == 200


def test_a_proxy_wins_over_the_environment(plain_server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    proxy = f"http://127.0.0.1:{plain_server.server_port}"
    with new_session(FetchOptions(proxy=proxy)) as session:
        assert session.get("http://example.invalid/clip", timeout=5).text.startswith("http://example.invalid/clip\n")
    with new_session(FetchOptions(proxy="")) as session:
        assert session.get(f"{proxy}/direct", timeout=5).text.startswith("/direct\n")


def test_cookies_and_user_agent_are_sent_and_the_file_is_left_alone(plain_server: HTTPServer, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(COOKIES)
    with new_session(FetchOptions(proxy="", cookie_file=str(file), user_agent="someone")) as session:
        answer = session.get(f"http://127.0.0.1:{plain_server.server_port}/", timeout=5)
    assert answer.text.splitlines()[1:] == ["session=abc", "someone"]
    assert file.read_text() == COOKIES


@pytest.mark.parametrize("content", [None, "not cookies\n"])
def test_a_cookie_file_that_cannot_be_read_is_explained(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cookies.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match="Netscape format"):
        load_cookies(str(file))


def test_a_header_that_drips_is_cut_off_at_the_read_time_out() -> None:
    routes = {"/drip": Route(data=b"x", header_bytes_per_s=20)}
    with LoopbackServer(routes=routes) as server, new_session(FetchOptions(proxy="")) as session:
        began = time.monotonic()
        with pytest.raises((requests.Timeout, requests.ConnectionError)):
            session.get(server.url + "/drip", timeout=(1, 0.5))
        assert time.monotonic() - began < 2


def test_a_body_that_drips_is_cut_off_when_told() -> None:
    routes = {"/drip": Route(data=b"x" * 1000, bytes_per_s=20)}
    with LoopbackServer(routes=routes) as server, new_session(FetchOptions(proxy="")) as session:
        answer = session.get(server.url + "/drip", timeout=(1, 5), stream=True)
        began = time.monotonic()
        with cut_off_after(0.3, answer.raw.connection) as alarm:
            try:
                assert len(answer.raw.read(1000)) < 100
            except urllib3.exceptions.ProtocolError as error:  # the server wrote once more, into a shut connection
                assert isinstance(error.args[1], ConnectionResetError)
        assert alarm.rang
        assert time.monotonic() - began < 2


def test_nothing_is_cut_off_in_time_or_without_a_connection() -> None:
    with LoopbackServer(routes={"/x": Route(data=b"x")}) as server, new_session(FetchOptions(proxy="")) as session:
        answer = session.get(server.url + "/x", timeout=1, stream=True)
        with cut_off_after(0.1, answer.raw.connection) as alarm:
            assert answer.content == b"x"
        with cut_off_after(0.0, None) as no_alarm:
            time.sleep(0.05)
        time.sleep(0.15)
        assert not alarm.rang
        assert not no_alarm.rang
        assert session.get(server.url + "/x", timeout=1).content == b"x"
