"""The server that demo, tests and benchmarks fetch from, seen by another HTTP client."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pipeline.loopback import HTML_PAGE, LoopbackServer, Route, html_page

BODY = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    (tmp_path / "secret.txt").write_text("outside")
    (tmp_path / "media" / "clip.mp4").write_bytes(BODY)
    (tmp_path / "media" / "-a b_é.mp4").write_bytes(b"odd name")
    return tmp_path / "media"


@pytest.fixture
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def test_files_come_whole_with_type_and_length(folder: Path, client: requests.Session) -> None:
    with LoopbackServer(folder) as server:
        answer = client.get(server.url + "/clip.mp4")
        odd = client.get(server.url + "/-a%20b_%C3%A9.mp4?signature=1")
        head = client.head(server.url + "/clip.mp4")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, BODY, "video/mp4")
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert odd.content == b"odd name"
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(BODY)))


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=0-9", 206, BODY[:10]),
        ("bytes=5-", 206, BODY[5:]),
        ("bytes=-7", 206, BODY[-7:]),
        ("bytes=10-99999999", 206, BODY[10:]),
        ("bytes=99999999-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=9-5", 416, b""),
        ("bytes=0-1,4-5", 200, BODY),
        ("lines=0-1", 200, BODY),
        ("bytes=x-1", 200, BODY),
    ],
)
@pytest.mark.parametrize("from_file", [True, False])
def test_ranges(folder: Path, client: requests.Session, asked: str, status: int, body: bytes, from_file: bool) -> None:
    routes = {} if from_file else {"/clip.mp4": Route(data=BODY)}
    with LoopbackServer(folder, routes) as server:
        answer = client.get(server.url + "/clip.mp4", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, body)
    if status == 206:
        first = BODY.index(body) if len(body) < 256 else len(BODY) - len(body)
        expected = f"bytes {first}-{first + len(body) - 1}/{len(BODY)}"
        assert answer.headers["Content-Range"] == (expected if asked != "bytes=-7" else f"bytes {10233}-{10239}/10240")
    if status == 416:
        assert answer.headers["Content-Range"] == f"bytes */{len(BODY)}"


def test_nothing_outside_the_folder(folder: Path) -> None:
    with LoopbackServer(folder) as server:
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "//etc/hostname", "/missing.mp4", "/", "/x%00y"):
            # requests would tidy the path up.
            connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=5)
            connection.request("GET", path)
            assert connection.getresponse().status == 404
            connection.close()


def test_scripted_statuses_and_headers(client: requests.Session) -> None:
    routes = {
        "/gone": Route(status=404),
        "/busy": Route(status=429, retry_after="7"),
        "/moved": Route(status=302, location="/gone"),
        "/page.mp4": html_page(),
        "/typed": Route(data=b"x", content_type="video/webm"),
        "/plain": Route(data=BODY, ranges=False),
    }
    with LoopbackServer(routes=routes) as server:
        busy = client.get(server.url + "/busy")
        moved = client.get(server.url + "/moved", allow_redirects=False)
        page = client.get(server.url + "/page.mp4")
        plain = client.get(server.url + "/plain", headers={"Range": "bytes=0-1"})
        assert client.get(server.url + "/gone").status_code == 404
        assert client.get(server.url + "/typed").headers["Content-Type"] == "video/webm"
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "7")
    assert (moved.status_code, moved.headers["Location"]) == (302, "/gone")
    assert (page.status_code, page.headers["Content-Type"], page.content) == (200, "text/html", HTML_PAGE)
    assert (plain.status_code, plain.content) == (200, BODY)
    assert "Accept-Ranges" not in plain.headers


def test_a_fault_for_the_first_requests_only(folder: Path, client: requests.Session) -> None:
    routes = {"/clip.mp4": Route(status=429, times=2), "/data": Route(data=b"d", status=500, times=1)}
    with LoopbackServer(folder, routes) as server:
        statuses = [client.get(server.url + "/clip.mp4").status_code for _ in range(4)]
        data = [client.get(server.url + "/data").content for _ in range(2)]
    assert statuses == [429, 429, 200, 200]
    assert data == [b"status 500\n", b"d"]


def test_a_path_can_be_scripted_anew(folder: Path, client: requests.Session) -> None:
    with LoopbackServer(folder) as server:
        before = client.get(server.url + "/clip.mp4").status_code
        server.set_route("/clip.mp4", Route(status=403, times=1))
        after = [client.get(server.url + "/clip.mp4").status_code for _ in range(2)]
    assert (before, after) == (200, [403, 200])


def test_a_fault_for_the_first_seconds_only(folder: Path, client: requests.Session) -> None:
    with LoopbackServer(folder, {"/clip.mp4": Route(status=429, seconds=0.3)}) as server:
        before = [client.get(server.url + "/clip.mp4").status_code for _ in range(2)]
        time.sleep(0.35)
        after = client.get(server.url + "/clip.mp4").status_code
    assert (before, after) == ([429, 429], 200)


def test_a_cut_transfer_announces_more_than_it_sends(client: requests.Session) -> None:
    with LoopbackServer(routes={"/cut": Route(data=BODY, truncate_at=100)}) as server:
        answer = client.get(server.url + "/cut", stream=True)
        assert answer.headers["Content-Length"] == str(len(BODY))
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            answer.content  # noqa: B018 - reading is the act
        assert server.log("/cut")[0].bytes == 100


def test_without_a_length_the_connection_ends_the_body(client: requests.Session) -> None:
    with LoopbackServer(routes={"/open": Route(data=BODY, sends_length=False)}) as server:
        answer = client.get(server.url + "/open")
    assert answer.content == BODY
    assert "Content-Length" not in answer.headers


def test_a_hanging_request_ends_with_the_server(client: requests.Session) -> None:
    with LoopbackServer(routes={"/hang": Route(hang=True)}) as server:
        with pytest.raises(requests.ReadTimeout):
            client.get(server.url + "/hang", timeout=0.2)
        outcomes: list[Exception] = []

        def wait() -> None:
            try:
                client.get(server.url + "/hang")
            except requests.RequestException as error:
                outcomes.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        began = time.monotonic()
    waiting.join(5)
    assert len(outcomes) == 1
    assert time.monotonic() - began < 3
    assert {entry.status for entry in server.log()} <= {0}


def test_pace_and_latency(client: requests.Session) -> None:
    routes = {"/slow": Route(data=BODY, bytes_per_s=40_000), "/header": Route(data=b"x", header_bytes_per_s=1000)}
    with LoopbackServer(routes=routes, latency_s=0.05) as server:
        began = time.monotonic()
        assert client.get(server.url + "/slow").content == BODY
        slow = time.monotonic() - began
        began = time.monotonic()
        assert client.get(server.url + "/header").content == b"x"
        header = time.monotonic() - began
    assert 0.25 < slow < 2
    assert 0.15 < header < 2


def test_the_log_is_exact_under_concurrency_and_readable_from_outside(folder: Path) -> None:
    with LoopbackServer(folder) as server:

        def fetch() -> None:
            with requests.Session() as session:
                session.trust_env = False
                for _ in range(10):
                    session.get(server.url + "/clip.mp4", headers={"Range": "bytes=0-99"})

        threads = [threading.Thread(target=fetch) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = requests.get(server.url + "/__log__", proxies={"http": ""}, timeout=5).json()
        assert len(seen) == len(server.log()) == 80
        assert server.traffic() == 8000
        assert {(entry["path"], entry["range"], entry["status"], entry["bytes"]) for entry in seen} == {
            ("/clip.mp4", "bytes=0-99", 206, 100)
        }
        assert all(entry["seconds"] >= 0 and abs(entry["at"] - time.time()) < 60 for entry in seen)
        server.clear_log()
        assert server.log() == []


def test_it_listens_on_loopback_only() -> None:
    with LoopbackServer() as server:
        assert server.url.startswith("http://127.0.0.1:")


def test_it_runs_as_a_program(folder: Path, tmp_path: Path, client: requests.Session) -> None:
    routes = tmp_path / "routes.json"
    routes.write_text(json.dumps({"/gone.mp4": {"status": 410}}))
    command = [sys.executable, "-m", "pipeline.loopback", str(folder), "--routes", str(routes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            assert client.get(url + "/clip.mp4").content == BODY
            assert client.get(url + "/gone.mp4").status_code == 410
            assert [entry["status"] for entry in client.get(url + "/__log__").json()] == [200, 410]
        finally:
            process.terminate()
        assert process.wait(5) == 0
