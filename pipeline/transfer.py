"""One HTTP exchange with a stranger's server: redirects, statuses, deadlines and the count of what it cost."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pipeline.clip import MIB, FetchOptions
from pipeline.failures import Cause, FetchFailure, failure_of_status, plain_words
from pipeline.http_session import cut_off_after
from stores.storage import StorageError

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 16
EMPTY = "the answer is empty where media should be"


@dataclass
class Spending:
    """What fetching one segment has cost so far, over all its files and tries, and the limits of it.

    Attributes:
        before_request: waits until one more request may go out.
        ends_at: `time.monotonic()` at which it is over.
        traffic: body bytes received.
        requests: HTTP requests sent, redirects included.
    """

    options: FetchOptions
    before_request: Callable[[], None] | None = None
    ends_at: float = field(init=False)
    traffic: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        self.ends_at = time.monotonic() + self.options.deadline_s

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Failures inside say what has been spent until then."""
        try:
            yield
        except FetchFailure as failure:
            failure.traffic, failure.requests = self.traffic, self.requests
            raise

    def request(self) -> None:
        """Counts a request that is about to go out, when it may: waiting for that takes nothing of its time."""
        if self.before_request is not None:
            began = time.monotonic()
            self.before_request()
            self.ends_at += time.monotonic() - began
        self.requests += 1

    def remaining_s(self) -> float:
        """Seconds left, > 0. Raises FetchFailure (`unreachable`) when there are none."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise FetchFailure(Cause.UNREACHABLE, f"not fetched within {self.options.deadline_s:g} s")
        return left

    def add(self, size: int) -> None:
        """Counts received bytes. Raises FetchFailure (`undecodable`) when there are more than allowed."""
        self.traffic += size
        if self.traffic > self.options.max_bytes:
            limit = f"{self.options.max_bytes / 1e6:g} MB"
            raise FetchFailure(Cause.UNDECODABLE, f"too large: its segment takes more than {limit} of traffic")


class RemoteUrl:
    """Where a file is, which a redirect may change, and what is sent to there.

    Args:
        headers: sent with each request; credentials among them stay with the URL's own host.
    """

    def __init__(
        self, session: requests.Session, url: str, spending: Spending, headers: Mapping[str, str] | None = None
    ) -> None:
        self.spending = spending
        self._session = session
        self._url = url
        self._headers = dict(headers or {})

    def get(self, first: int, last: int) -> requests.Response:
        """The answer, 200 or 206, to a request for bytes `first` to `last`; its body is not read yet.

        Raises:
            FetchFailure: any other status, too many redirects, an encoded or empty body.
            requests.RequestException: no answer.
        """
        # requests itself would read the bodies of the answers on the way, however long they are.
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(first, last)
            if not response.is_redirect:
                return _checked(response)
            response.close()
            self._redirect(response.headers["Location"])
        raise FetchFailure(Cause.UNREACHABLE, f"more than {MAX_REDIRECTS} redirects")

    def _send(self, first: int, last: int) -> requests.Response:
        self.spending.request()
        options, left = self.spending.options, self.spending.remaining_s()
        try:
            return self._session.get(
                self._url,
                headers={**self._headers, "Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"},
                stream=True,
                allow_redirects=False,
                timeout=(min(options.connect_timeout_s, left), min(options.read_timeout_s, left)),
                verify=self._session.verify,  # given again because the environment's would win over the session's
            )
        except requests.RequestException:
            raise
        except ValueError as error:  # requests reads a redirect's target even where it does not follow it
            raise FetchFailure(Cause.UNREACHABLE, plain_words(f"an answer that makes no sense: {error}")) from error

    def _redirect(self, location: str) -> None:
        try:
            target = urljoin(self._url, location)
            old, new = urlsplit(self._url), urlsplit(target)
        except ValueError as error:
            raise FetchFailure(Cause.UNREACHABLE, plain_words(f"redirected to {location!r}: {error}")) from error
        if new.scheme not in ("http", "https") or not new.hostname:
            raise FetchFailure(Cause.UNREACHABLE, f"redirected to what is not http: {plain_words(target)}")
        if (old.scheme, old.netloc) != (new.scheme, new.netloc):
            secret = ("authorization", "cookie")
            self._headers = {name: value for name, value in self._headers.items() if name.lower() not in secret}
        # Kept for the requests that follow: one redirect a file rather than one a block.
        self._url = target


def _checked(response: requests.Response) -> requests.Response:
    failure: FetchFailure | None = None
    if response.status_code == 416 and response.headers.get("Content-Range", "").replace(" ", "") == "bytes*/0":
        failure = FetchFailure(Cause.UNREACHABLE, EMPTY)
    elif response.status_code not in (200, 206):
        failure = failure_of_status(response.status_code, response.headers.get("Retry-After"))
    elif response.headers.get("Content-Encoding", "identity").lower() != "identity":
        failure = FetchFailure(Cause.UNREACHABLE, "the answer is compressed, which was not asked for")
    if failure is not None:
        response.close()
        raise failure
    return response


def body(response: requests.Response, length: int | None, spending: Spending) -> Iterator[bytes]:
    """The body in pieces of at most 64 KiB, up to `length` bytes (None: all); what comes is counted.

    Raises:
        FetchFailure: the segment's time or allowance is over.
        urllib3.exceptions.HTTPError, OSError: the transfer failed or was cut.
    """
    left = length
    with response, cut_off_after(spending.remaining_s(), response.raw) as alarm:
        while left is None or left > 0:
            try:
                chunk = response.raw.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            except (urllib3.exceptions.HTTPError, OSError):
                if alarm.rang:
                    spending.remaining_s()
                raise
            if alarm.rang:
                spending.remaining_s()
            if not chunk:
                return
            spending.add(len(chunk))
            left = None if left is None else left - len(chunk)
            yield chunk


class Stream:
    """A body that comes whole and in order, kept in a temporary file as far as it was needed.

    Attributes:
        announced: its length in bytes as the server says; None where it does not.
    """

    def __init__(self, response: requests.Response, spending: Spending) -> None:
        length = response.headers.get("Content-Length", "")
        self.announced = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        self._chunks = body(response, None, spending)
        self._file = tempfile.SpooledTemporaryFile(max_size=8 * MIB)  # noqa: SIM115 - closed by close()
        self._have = 0
        self._complete = False

    def read_at(self, position: int, length: int) -> bytes:
        """Up to `length` bytes from a position; empty at the end only. Raises what `body` does."""
        self._pull(position + 1)
        self._file.seek(position)
        return self._file.read(length)

    def read_to_end(self) -> int:
        """Receives what is left; the length in bytes."""
        self._pull(None)
        return self._have

    def _pull(self, needed: int | None) -> None:
        self._file.seek(self._have)
        while not self._complete and (needed is None or self._have < needed):
            chunk = next(self._chunks, b"")
            if not chunk:
                self._complete = True
                if self.announced is not None and self._have != self.announced:
                    raise cut_transfer(self._have, self.announced)
            try:
                self._file.write(chunk)
            except OSError as error:
                raise StorageError(f"temporary folder {tempfile.gettempdir()}: {error.strerror}") from error
            self._have += len(chunk)

    def close(self) -> None:
        """Gives the connection and the file up."""
        self._chunks.close()  # type: ignore[attr-defined]
        self._file.close()


def cut_transfer(got: int, announced: int) -> FetchFailure:
    """The failure of a body shorter than announced."""
    return FetchFailure(Cause.UNREACHABLE, f"the transfer was cut: {got} of {announced} bytes came")
