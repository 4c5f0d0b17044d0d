"""What `--segments` means: names, paths, and the download of AudioSet's own lists from a loopback server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from pipeline.audioset import OFFICIAL_SPLITS, SegmentList, cache_folder, resolve_segments
from pipeline.segments import SegmentError

LIST = (
    b"# Segments csv created Sun Mar  5 10:54:25 2017\n"
    b"# num_ytids=2, num_segs=2, num_unique_labels=1, num_positive_labels=2\n"
    b"# YTID, start_seconds, end_seconds, positive_labels\n"
    b'--4gqARaEJE, 0.000, 10.000, "/m/068hy"\n--BfvyPmVMo, 20.000, 30.000, "/m/03l9g"\n'
)


class ListServer(ThreadingHTTPServer):
    """Answers with `status` and `body`, says `length` is coming, and keeps the paths asked for."""

    status, body, length = 200, LIST, len(LIST)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ListHandler)
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/csv"


class ListHandler(BaseHTTPRequestHandler):
    server: ListServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.length))
        self.send_header("Retry-After", "3600")
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ListServer]:
    server = ListServer()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("split", OFFICIAL_SPLITS)
def test_an_official_list_is_downloaded_once(server: ListServer, tmp_path: Path, split: str) -> None:
    cache = tmp_path / "deep" / "cache"
    found = resolve_segments(split, base_url=server.url, cache=cache)
    assert found == SegmentList(split, str(cache / f"{split}_segments.csv"))
    assert Path(found.path).read_bytes() == LIST
    assert resolve_segments(split, base_url=server.url, cache=cache) == found
    assert server.paths == [f"/csv/{split}_segments.csv"]
    assert [path.name for path in cache.iterdir()] == [f"{split}_segments.csv"]


@pytest.mark.parametrize(
    ("status", "body", "length", "words"),
    [
        (404, b"", 0, "404"),
        (403, b"", 0, "403"),
        (503, b"", 0, "503"),
        (200, b"", 0, "got b''"),
        (200, b"<html>Sign in to the network</html>", 35, "got b'<html>Sign in"),
        (200, LIST[:-20], len(LIST), "IncompleteRead"),
        (200, LIST[: LIST.index(b"--Bf")], LIST.index(b"--Bf"), "expected 2 segments as its header says, got 1"),
    ],
)
def test_what_is_not_the_list_is_refused_and_not_kept(
    server: ListServer, tmp_path: Path, status: int, body: bytes, length: int, words: str
) -> None:
    server.status, server.body, server.length = status, body, length
    with pytest.raises(SegmentError) as caught:
        resolve_segments("eval", base_url=server.url, cache=tmp_path)
    message = str(caught.value)
    assert f"{server.url}/eval_segments.csv" in message
    assert words in message
    assert "--segments eval=PATH" in message
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_end_is_cut_off(server: ListServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.audioset.MAX_DOWNLOAD_BYTES", 100)
    with pytest.raises(SegmentError, match="more than 100 bytes came"):
        resolve_segments("eval", base_url=server.url, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server_names_the_url_and_the_way_round(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SegmentError, match=rf"{url}/eval_segments\.csv: .*--segments eval=PATH"):
            resolve_segments("eval", base_url=url, cache=tmp_path)


def test_a_cache_that_cannot_be_written_is_named(server: ListServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SegmentError, match=r"file.*--segments eval=PATH"):
        resolve_segments("eval", base_url=server.url, cache=tmp_path / "file")


def test_the_cache_folder_follows_the_environment(
    server: ListServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AVLENS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "avlens"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "avlens"
    monkeypatch.setenv("AVLENS_CACHE", str(tmp_path / "own"))
    assert resolve_segments("eval", base_url=server.url).path == str(tmp_path / "own" / "eval_segments.csv")


@pytest.mark.parametrize(
    ("argument", "split", "path"),
    [
        ("mine=a.csv", "mine", "a.csv"),
        ("eval=/data/eval.csv.gz", "eval", "/data/eval.csv.gz"),
        ("run_2=s3://bucket/x=1/list.csv", "run_2", "s3://bucket/x=1/list.csv"),
    ],
)
def test_the_users_own_list(argument: str, split: str, path: str) -> None:
    assert resolve_segments(argument) == SegmentList(split, path)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "train",
        "Eval",
        "list.csv",
        "=list.csv",
        "mine=",
        "../x=list.csv",
        "a/b=list.csv",
        "a.b=x",
        "A=x",
        "a\n=x",
        "x" * 65 + "=y",
    ],
)
def test_other_arguments_are_refused(argument: str) -> None:
    with pytest.raises(SegmentError, match="expected one of eval, balanced_train, unbalanced_train, or NAME=PATH"):
        resolve_segments(argument)
