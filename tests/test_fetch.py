"""`--source`: which kind a text is, what is wrong with it, and the fetcher that comes of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.clip import FetchOptions
from pipeline.directory import DirectoryFetcher
from pipeline.fetch import open_source, scope_of, source_kind
from pipeline.loopback import LoopbackServer, Route
from pipeline.segments import Segment
from pipeline.web import HttpFetcher

OPTIONS = FetchOptions(proxy="")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("youtube", "youtube"),
        ("ytdlp:https://host/{ytid}", "ytdlp"),
        ("http:http://127.0.0.1:8000/{ytid}.mp4", "http"),
        ("http:https://host/{key}.mp4", "http"),
        ("https://host/{ytid}_{start_ms}.mp4", "http"),
        ("http://host/{ytid}.mp4", "http"),
        ("dir:/data/clips", "dir"),
        ("dir:relative", "dir"),
        ("dir:/missing/folder", "dir"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert source_kind(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dir:",
        "/data/clips",
        "youtube:x",
        "http:",
        "http:host/{ytid}",
        "http:http://host/clip.mp4",
        "http://host/{id}.mp4",
        "ytdlp:{ytid}",
        "ytdlp:ytsearch:{ytid}",
        "ftp://host/{ytid}",
    ],
)
def test_other_texts_are_explained(text: str) -> None:
    for function in (source_kind, lambda source: open_source(source, OPTIONS)):
        with pytest.raises(ValueError, match=r"expected|it may hold|put \{ytid\}"):
            function(text)


def test_folders_and_urls_are_opened(tmp_path: Path) -> None:
    folder = open_source(f"dir:{tmp_path}", OPTIONS)
    web = open_source("http:http://127.0.0.1/{ytid}", OPTIONS)
    assert isinstance(folder, DirectoryFetcher)
    assert isinstance(web, HttpFetcher)
    folder.close()
    web.close()
    with pytest.raises(ValueError, match="expected a folder"):
        open_source(f"dir:{tmp_path}/missing", OPTIONS)
    with pytest.raises(ValueError, match="Netscape"):
        open_source("http:http://127.0.0.1/{ytid}", FetchOptions(cookie_file=str(tmp_path / "missing")))


@pytest.mark.parametrize("url", ["http://host/{ytid}", "http://Host:80/a/{ytid}", "http://me:word@HOST/{ytid}"])
def test_one_host_has_one_budget_however_it_is_written(url: str) -> None:
    assert scope_of(f"http:{url}") == "host"
    assert scope_of("http:https://host:80/{ytid}") == "host-80"


@pytest.mark.parametrize("prefix", ["http:", ""])
def test_both_ways_to_write_a_url_ask_for_the_same(prefix: str) -> None:
    wanted = Segment("abc_0", "abc", 0, 10_000, (), ())
    with LoopbackServer(routes={"/abc.mp4": Route(data=b"no media")}) as server:
        source = open_source(f"{prefix}{server.url}/{{ytid}}.mp4", OPTIONS)
        with pytest.raises(Exception, match="undecodable"):
            source.fetch(wanted)
        source.close()
        assert [entry.path for entry in server.log()] == ["/abc.mp4"]


def test_ytdlp_is_opened_and_only_then_imported() -> None:
    program = """
import sys
from pipeline.clip import FetchOptions
from pipeline.fetch import open_source, source_kind
assert source_kind("youtube") == "youtube"
assert "yt_dlp" not in sys.modules
for text in ("youtube", "ytdlp:https://host/{ytid}"):
    source = open_source(text, FetchOptions())
    assert type(source).__name__ == "YtdlpFetcher", source
    source.close()
assert "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
