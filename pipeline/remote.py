"""A remote file as a seekable file object over HTTP ranges, for PyAV to read media from.

Why not FFmpeg's own HTTP: there a cut transfer looks like the end of the file, `Retry-After` is lost, TLS is unverified
unless told otherwise, and nothing counts what crossed the network.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

import requests
import urllib3

from pipeline import http_errors  # noqa: F401 - registers errors of requests with `classify`
from pipeline.clip import MIB
from pipeline.failures import Cause, FetchFailure, classify, plain_words
from pipeline.seekable import SeekableReader
from pipeline.transfer import EMPTY, RemoteUrl, Spending, Stream, body, cut_transfer

BLOCK_BYTES = MIB // 4  # unit of the cache; one request asks for one to four of them
LONGEST_RUN = 4
SMALL_FILE_BYTES = 4 * MIB  # read whole, in one or two requests
CACHED_BLOCKS = 64
PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/json", "text/xml", "application/xml")

T = TypeVar("T")


class RangeReader(SeekableReader):
    """A remote file, read by ranges; whole and in order where the server knows none.

    The first megabyte is fetched at once, so that what is not there or not media fails here, and a small file costs one
    request. Blocks are cached. Not thread-safe.

    Args:
        session: see `pipeline.http_session.new_session`.
        headers: sent with each request; credentials among them stay with the URL's own host.

    Attributes:
        size: bytes in the file; None while the server does not say.
        content_type: as announced, lower case, without parameters.
        failure: what went wrong in a read. FFmpeg takes some errors for the end of the file: look here afterwards.

    Raises:
        FetchFailure: from the constructor and from reads.
    """

    def __init__(
        self, session: requests.Session, url: str, spending: Spending, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._remote = RemoteUrl(session, url, spending, headers)
        self._spending = spending
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._run = 0  # blocks that the last request asked for if it went on from another, else 0
        self._next_block = 0  # the one after them
        self._etag: str | None = None
        self._stream: Stream | None = None
        self.size: int | None = None
        self.content_type = ""
        self.failure: FetchFailure | None = None
        head = self._guarded(self._open)
        if not head:
            raise FetchFailure(Cause.UNREACHABLE, EMPTY)
        # No container begins with these; markup and JSON do, whatever type they are called.
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{"):
            raise FetchFailure(
                Cause.UNREACHABLE, f"a page came where media should be ({self.content_type or 'no type'})"
            )

    @property
    def is_page(self) -> bool:
        """Whether the server calls the file a page rather than media."""
        return self.content_type in PAGE_TYPES

    def read_at(self, position: int, length: int) -> bytes:
        """What one block holds from a position on. Raises FetchFailure."""
        return self._guarded(lambda: self._read_at(position, length))

    def end(self) -> int:
        """The size, at the price of reading through where the server knows no ranges. Raises FetchFailure."""
        if self.size is None and self._stream is not None:
            self.size = self._guarded(self._stream.read_to_end)
        assert self.size is not None  # a range answer says it
        return self.size

    def close(self) -> None:
        """Gives the connection up; the session stays open."""
        if self._stream is not None:
            self._stream.close()
        self._blocks.clear()
        super().close()

    def _guarded(self, read: Callable[[], T]) -> T:
        if self.failure is not None:
            raise self.failure
        try:
            return read()
        except FetchFailure as failure:
            self.failure = failure
            raise
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            TimeoutError,
            ConnectionError,
            EOFError,
        ) as error:
            self.failure = classify(error)
            raise self.failure from error

    def _open(self) -> bytes:
        self._fetch_blocks(0, LONGEST_RUN)
        return self._read_at(0, 512)

    def _read_at(self, position: int, length: int) -> bytes:
        if self._stream is not None:
            return self._stream.read_at(position, length)
        assert self.size is not None  # as above
        if position >= self.size:
            return b""
        index, offset = divmod(position, BLOCK_BYTES)
        if index not in self._blocks:
            self._fetch_blocks(index, self._run_from(index))
        self._blocks.move_to_end(index)
        return self._blocks[index][offset : offset + length]

    def _run_from(self, index: int) -> int:
        """How many blocks to ask for when one is missing.

        A jump asks for a megabyte, which holds most indexes and most segments; what is still wanted after it is mostly
        little, so that the requests that go on from there begin small and grow.
        """
        assert self.size is not None  # as above
        count = -(-self.size // BLOCK_BYTES)
        on = index == self._next_block
        self._run = min(max(2 * self._run, 1), LONGEST_RUN) if on else 0
        longest = count if self.size <= SMALL_FILE_BYTES else self._run or LONGEST_RUN
        run = 1
        while run < longest and index + run < count and index + run not in self._blocks:
            run += 1
        return run

    def _fetch_blocks(self, index: int, run: int) -> None:
        first, last = index * BLOCK_BYTES, (index + run) * BLOCK_BYTES - 1
        if self.size is not None:
            last = min(last, self.size - 1)
        response = self._remote.get(first, last)
        self.content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and self.size is None:
            self._stream = Stream(response, self._spending)
            self.size = self._stream.announced
            return
        with response:
            last = self._checked_last(response, first, last)
            data = b"".join(body(response, last - first + 1, self._spending))
        if len(data) != last - first + 1:
            raise cut_transfer(len(data), last - first + 1)
        for at in range(0, len(data), BLOCK_BYTES):
            self._blocks[index + at // BLOCK_BYTES] = data[at : at + BLOCK_BYTES]
        while len(self._blocks) > CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        self._next_block = index + run

    def _checked_last(self, response: requests.Response, first: int, last: int) -> int:
        """The last byte that a 206 brings: the one asked for, or the file's."""
        content_range = response.headers.get("Content-Range", "").strip()
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", content_range)
        if response.status_code != 206 or match is None:
            words = f"status {response.status_code} with {plain_words(content_range)!r} is no answer to a range request"
            raise FetchFailure(Cause.UNREACHABLE, words)
        got_first, got_last, size = map(int, match.groups())
        etag = response.headers.get("ETag")
        if self.size is None:
            self.size, self._etag = size, etag
        if (size, etag) != (self.size, self._etag):
            raise FetchFailure(Cause.UNREACHABLE, "the file changed while it was read")
        if (got_first, got_last) != (first, min(last, size - 1)):
            raise FetchFailure(Cause.UNREACHABLE, f"asked for bytes {first}-{last}, got {plain_words(content_range)!r}")
        return got_last
