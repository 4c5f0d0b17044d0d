"""Where clips come from: `youtube`, `ytdlp:URL`, `http:URL`, `dir:PATH`; `none` where nothing shall be fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit

from pipeline.clip import FetchedClip, Fetcher, FetchOptions
from pipeline.directory import DirectoryFetcher
from pipeline.template import UrlTemplate
from pipeline.web import HttpFetcher

__all__ = [
    "DirectoryFetcher",
    "FetchOptions",
    "FetchedClip",
    "Fetcher",
    "HttpFetcher",
    "SourceKind",
    "open_source",
    "source_kind",
]

SourceKind = Literal["youtube", "ytdlp", "http", "dir", "none"]
YOUTUBE_URL = "https://www.youtube.com/watch?v={ytid}"


def source_kind(text: str) -> SourceKind:
    """The kind of a source, from its text alone. Raises ValueError, with what to write, where it is none."""
    kind, _, rest = text.partition(":")
    if text == "youtube":
        return "youtube"
    if text == "none":
        return "none"
    if kind == "dir" and rest:
        return "dir"
    if kind in ("http", "https", "ytdlp"):
        UrlTemplate(_url(text))
        return "ytdlp" if kind == "ytdlp" else "http"
    raise ValueError(
        f"expected a source youtube, ytdlp:URL, http:URL or dir:PATH, got {text!r}; "
        "for example http:https://host/{ytid}.mp4 or dir:/data/clips"
    )


def scope_of(text: str) -> str:
    """What a source's budgets are kept under: `youtube`, or its host. Two sources do not share one address's budget."""
    kind = source_kind(text)
    if kind not in ("http", "ytdlp"):
        return kind
    url = urlsplit(_url(text))
    host = url.netloc.rsplit("@", 1)[-1].lower().removesuffix({"http": ":80", "https": ":443"}.get(url.scheme, ":"))
    return re.sub(r"[^a-z0-9.-]", "-", host)[:100]


def open_source(text: str, options: FetchOptions, before_request: Callable[[], None] | None = None) -> Fetcher:
    """The fetcher of a source; to be made in the process that uses it.

    Args:
        before_request: called before each HTTP request; it may wait.

    Raises:
        ValueError: the text is none, or what it names (folder, cookie file) cannot be used.
    """
    kind = source_kind(text)
    if kind == "none":
        raise ValueError("expected a source to fetch from, got none")
    if kind == "dir":
        return DirectoryFetcher(text.removeprefix("dir:"), options)
    if kind == "http":
        return HttpFetcher(UrlTemplate(_url(text)), options, before_request)
    # Imported here because yt-dlp takes half a second, which the other sources need not spend.
    from pipeline.youtube import YtdlpFetcher

    template = UrlTemplate(YOUTUBE_URL if kind == "youtube" else _url(text))
    return YtdlpFetcher(template, options, origin=kind, before_request=before_request)


def _url(text: str) -> str:
    """The template of a source: `http:https://host/…`, or what people write instead, the bare `https://host/…`."""
    kind, _, rest = text.partition(":")
    return text if kind in ("http", "https") and rest.startswith("//") else rest
