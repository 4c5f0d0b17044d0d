"""Media behind URLs: reads what a segment needs and cuts it out; the `http:` source."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import requests

from pipeline.clip import MIB, FetchedClip, FetchOptions
from pipeline.cut_process import cut_apart
from pipeline.demux import CLIP_SLACK_MS
from pipeline.failures import Cause, FetchFailure, Refused
from pipeline.http_session import new_session
from pipeline.media import start_in_file
from pipeline.pool import Pool
from pipeline.remote import RangeReader
from pipeline.segments import Segment
from pipeline.template import UrlTemplate
from pipeline.transfer import Spending

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MediaUrl:
    """Where a file is, and what its server wants to be told."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpFetcher:
    """Files behind a URL template: whole videos, or the segments' clips already.

    `fetch` may be called from several threads at once.

    Args:
        before_request: called before each HTTP request; it may wait.
    """

    def __init__(
        self, template: UrlTemplate, options: FetchOptions, before_request: Callable[[], None] | None = None
    ) -> None:
        self._template = template
        self._options, self._before_request = options, before_request
        self._sessions: Pool[requests.Session] = Pool(lambda: new_session(options), lambda session: session.close())
        with self._sessions.borrow():
            pass  # a cookie file that cannot be read should fail here, not at the first clip

    def fetch(self, segment: Segment) -> FetchedClip:
        """The segment's media. Raises FetchFailure."""
        media = [MediaUrl(self._template.url(segment))]
        spending = Spending(self._options, self._before_request)
        with spending.charged(), self._sessions.borrow() as session:
            try:
                return self._fetch(session, media, segment, spending)
            except Refused as refused:
                # A server that signs where it redirects to signs anew; any other says no again.
                logger.debug("%s: %s; once more", segment.key, refused)
                return self._fetch(session, media, segment, spending)

    def _fetch(
        self, session: requests.Session, media: Sequence[MediaUrl], segment: Segment, spending: Spending
    ) -> FetchedClip:
        return fetch_media(
            session, media, segment, spending, origin="http", start_in_file=start_finder(self._template, segment)
        )

    def close(self) -> None:
        """Closes the connections."""
        self._sessions.close()


def start_finder(template: UrlTemplate, segment: Segment) -> Callable[[int | None], int]:
    """Where the segment starts in the file behind a template, in ms, as a function of the file's length in ms.

    A file that could be both the whole video and the segment's clip is the clip where the URL names the segment;
    otherwise the lengths decide. A file of unknown length is what the URL names.
    """

    def start(duration_ms: int | None) -> int:
        longest_clip_ms = segment.end_ms - segment.start_ms + CLIP_SLACK_MS
        if template.names_segment and (duration_ms is None or duration_ms <= longest_clip_ms):
            return 0
        if duration_ms is None:
            return segment.start_ms
        return start_in_file(duration_ms, segment.start_ms, segment.end_ms)

    return start


def fetch_media(
    session: requests.Session,
    media: Sequence[MediaUrl],
    segment: Segment,
    spending: Spending,
    *,
    origin: str,
    start_in_file: Callable[[int | None], int] | None = None,
) -> FetchedClip:
    """A segment out of one file, or of two that hold sound and picture.

    Args:
        start_in_file: see `start_finder`; None: the file is the whole video.

    Raises:
        FetchFailure: with the cause.
    """
    with ExitStack() as stack:
        readers: list[RangeReader] = []
        try:
            for each in media:
                readers.append(stack.enter_context(RangeReader(session, each.url, spending, each.headers)))
            cut = cut_apart(
                readers,
                segment.start_ms,
                segment.end_ms,
                max_bytes=spending.options.max_bytes,
                start_in_file=start_in_file,
            )
            data = cut.data if cut.data is not None else _all(readers[0], spending.options.max_clip_bytes)
        except FetchFailure as failure:
            real = _real_failure(readers, failure)
            if real is failure:
                raise
            raise real from failure
        # FFmpeg takes some read errors for the end of the file.
        for reader in readers:
            if reader.failure is not None:
                raise reader.failure
    _require_small(len(data), spending.options.max_clip_bytes)
    return FetchedClip(
        segment=segment,
        data=data,
        path=None,
        extension=cut.extension,
        media_start_ms=cut.media_start_ms,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        traffic=spending.traffic,
        requests=spending.requests,
        origin=origin,
    )


def _all(reader: RangeReader, limit: int) -> bytes:
    _require_small(reader.size or 0, limit)
    reader.seek(0)
    data = bytearray()
    while piece := reader.read(MIB):
        data += piece
        _require_small(len(data), limit)
    return bytes(data)


def _require_small(size: int, limit: int) -> None:
    if size > limit:
        raise FetchFailure(Cause.UNDECODABLE, f"too large: the media of one segment have more than {limit / 1e6:g} MB")


def _real_failure(readers: Sequence[RangeReader], failure: FetchFailure) -> FetchFailure:
    """What went wrong first: reading, being given a page, or the media themselves."""
    for reader in readers:
        if reader.failure is not None:
            return reader.failure
    if failure.cause == Cause.UNDECODABLE and any(reader.is_page for reader in readers):
        return FetchFailure(Cause.UNREACHABLE, f"a page came where media should be: {failure.words}")
    return failure
