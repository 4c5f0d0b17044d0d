"""YouTube and what else yt-dlp knows: it resolves where the media are, `pipeline.web` reads the segment out of them."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests
from yt_dlp import YoutubeDL
from yt_dlp.globals import supported_js_runtimes
from yt_dlp.utils import YoutubeDLError

from pipeline import ytdlp_errors  # noqa: F401 - registers yt-dlp's errors with `classify`
from pipeline.clip import FetchedClip, FetchOptions
from pipeline.failures import Cause, FetchFailure, ProxyDown, Refused, classify
from pipeline.http_errors import has_no_connection
from pipeline.http_session import load_cookies, new_session
from pipeline.pool import Pool
from pipeline.segments import Segment
from pipeline.template import UrlTemplate
from pipeline.transfer import Spending
from pipeline.web import MediaUrl, fetch_media, start_finder

logger = logging.getLogger(__name__)

# One plain file of 360 lines with picture and sound; the same in two; what comes near. Manifests are no files.
_PLAIN = "[protocol~='^https?$']"
FORMAT = f"18/134+140/b[height<=?480]{_PLAIN}/bv[height<=?480]{_PLAIN}+ba{_PLAIN}/b*{_PLAIN}"
LONGEST_WAIT_S = 30.0  # for formats that become available soon; the length of an advertisement
REFUSALS_BEFORE_ALARM = 5


@dataclass
class _Tool:
    """What one fetch uses: a resolver, a session with its cookies."""

    resolver: _Resolver
    session: requests.Session

    def close(self) -> None:
        self.session.close()
        self.resolver.close()


class _Resolver(YoutubeDL):
    """yt-dlp, with its requests counted and bounded by the segment's time."""

    spending: Spending | None = None

    def urlopen(self, req: Any) -> Any:
        if self.spending is not None:
            self.spending.remaining_s()
            self.spending.request()
        return super().urlopen(req)


class YtdlpFetcher:
    """Videos that yt-dlp finds behind a URL template, as a whole or in two files for picture and sound.

    `fetch` may be called from several threads at once; each uses a yt-dlp of its own.

    Args:
        extractors: yt-dlp `InfoExtractor` classes that are asked before yt-dlp's own.
        before_request: called before each HTTP request; it may wait.

    Raises:
        ValueError: a cookie file that cannot be read.
    """

    def __init__(
        self,
        template: UrlTemplate,
        options: FetchOptions,
        *,
        origin: Literal["youtube", "ytdlp"] = "ytdlp",
        extractors: Sequence[type] = (),
        before_request: Callable[[], None] | None = None,
    ) -> None:
        self._template = template
        self._options, self._before_request = options, before_request
        self._origin = origin
        self._extractors = tuple(extractors)
        self._lock = threading.Lock()
        self._refusals = 0
        self._tools: Pool[_Tool] = Pool(self._make_tool, _Tool.close)
        if options.cookie_file:
            load_cookies(options.cookie_file)
        if origin == "youtube" and not javascript_runtime():
            logger.error(
                "yt-dlp finds no JavaScript runtime, without which YouTube gives few formats: pip install deno"
            )

    def fetch(self, segment: Segment) -> FetchedClip:
        """The segment's media. Raises FetchFailure."""
        spending = Spending(self._options, self._before_request)
        with spending.charged(), self._tools.borrow() as tool:
            clip = self._fetch_unless_refused(tool, segment, spending)
            if clip is None:
                logger.debug("%s: refused; resolved anew", segment.key)
                try:
                    clip = self._fetch(tool, segment, spending)
                except Refused:
                    self._count_refusal()
                    raise
        with self._lock:
            self._refusals = 0
        return clip

    def close(self) -> None:
        """Closes yt-dlp and the connections."""
        self._tools.close()

    def _fetch_unless_refused(self, tool: _Tool, segment: Segment, spending: Spending) -> FetchedClip | None:
        # A function of its own, so that what fails next is not raised while this is handled: its chain of errors would
        # hold these.
        try:
            return self._fetch(tool, segment, spending)
        except Refused:
            return None

    def _count_refusal(self) -> None:
        with self._lock:
            self._refusals += 1
            alarm = self._refusals % REFUSALS_BEFORE_ALARM == 0
        if alarm:
            logger.error(
                "%d videos were refused although resolved anew: yt-dlp is probably out of date", self._refusals
            )

    def _fetch(self, tool: _Tool, segment: Segment, spending: Spending) -> FetchedClip:
        info = self._resolve(tool.resolver, self._template.url(segment), spending)
        chosen = info.get("requested_formats") or [info]
        _check_length(info, segment)
        _wait_until_available(chosen, spending)
        media = [MediaUrl(each["url"], each.get("http_headers") or {}) for each in chosen]
        own_clip = self._template.names_segment
        return fetch_media(
            tool.session,
            media,
            segment,
            spending,
            origin=self._origin,
            start_in_file=start_finder(self._template, segment) if own_clip else None,
        )

    def _resolve(self, resolver: _Resolver, url: str, spending: Spending) -> dict[str, Any]:
        resolver.spending = spending
        try:
            info = resolver.extract_info(url, download=False)
        except YoutubeDLError as error:
            failure = classify(error)
            if self._options.proxy and failure.cause == Cause.UNREACHABLE and has_no_connection(error):
                failure = ProxyDown(failure.cause, failure.words)  # all connections are to the proxy
            raise failure from error
        finally:
            resolver.spending = None
        entries = [info] if info and "entries" not in info else list((info or {}).get("entries") or [])
        if len(entries) != 1 or not entries[0]:
            raise FetchFailure(Cause.UNREACHABLE, f"a page with {len(entries)} videos came where one should be")
        video: dict[str, Any] = entries[0]
        if video.get("live_status") in ("is_live", "is_upcoming"):
            raise FetchFailure(Cause.UNREACHABLE, f"not a finished video yet: {video['live_status']}")
        return video

    def _make_tool(self) -> _Tool:
        resolver = _Resolver(self._params(), auto_init=False)
        for extractor in self._extractors:
            resolver.add_info_extractor(extractor())
        resolver.add_default_info_extractors()
        session = new_session(self._options)
        session.cookies = resolver.cookiejar
        return _Tool(resolver, session)

    def _params(self) -> dict[str, Any]:
        options = self._options
        cookies = Path(options.cookie_file).expanduser().read_text() if options.cookie_file else None
        return {
            "format": FORMAT,
            "noplaylist": True,
            "quiet": True,
            "noprogress": True,
            "logger": _Log(),
            "color": "never",
            "socket_timeout": options.read_timeout_s,
            # Whether a video is tried again is decided over all of them, see pipeline.failures.
            "extractor_retries": 0,
            "proxy": options.proxy,
            "source_address": options.source_address,
            # A stream, because yt-dlp writes cookies back to a file, and several would at once.
            "cookiefile": io.StringIO(cookies) if cookies is not None else None,
            **options.ytdlp_params,
        }


class _Log:
    """yt-dlp's messages as log records; its errors are raised as well."""

    def debug(self, message: str) -> None:
        logger.debug("%s", message)

    info = warning = error = debug


def javascript_runtime() -> str | None:
    """The JavaScript runtime that yt-dlp uses by default (deno, also out of the package of that name), or None."""
    deno = supported_js_runtimes.value.get("deno")
    found = deno().info if deno is not None else None
    return f"{found.name} {found.version}" if found is not None and found.supported else None


def _check_length(info: dict[str, Any], segment: Segment) -> None:
    length_s = info.get("duration")
    if length_s and segment.start_ms >= 1000 * (length_s + 1):
        words = f"the segment starts at {segment.start_ms / 1000:g} s, the video is {length_s:g} s long"
        raise FetchFailure(Cause.UNDECODABLE, words)


def _wait_until_available(chosen: Sequence[dict[str, Any]], spending: Spending) -> None:
    """Formats say from when on they are served: mostly seconds ahead, after the advertisement that was not shown."""
    wait_s = max(each.get("available_at") or 0 for each in chosen) - time.time()
    if wait_s <= 0:
        return
    if wait_s > min(LONGEST_WAIT_S, spending.remaining_s()):
        # Not `throttled`: nobody is too fast, and other videos need not wait.
        raise FetchFailure(Cause.UNREACHABLE, f"the media are available in {wait_s:.0f} s", wait_s)
    time.sleep(wait_s)
