"""Which failure an error of requests or urllib3 is, and what stands behind it.

Importing this module teaches `pipeline.failures.classify` these errors.
"""

from __future__ import annotations

from collections.abc import Iterator

import requests
import socks
import urllib3

from pipeline.failures import Cause, FetchFailure, ProxyDown, classify, plain_words

DEEPEST = 32
AUTHENTICATION = (0xFE, 0xFF, 93)  # replies of SOCKS that mean us, not the server


@classify.register(requests.RequestException)
@classify.register(urllib3.exceptions.HTTPError)
@classify.register(EOFError)  # yt-dlp's SOCKS, which its import puts into requests, says so of a proxy that hangs up
def _(error: Exception) -> FetchFailure:
    words = plain_words(f"{type(error).__name__}: {error}")
    return (ProxyDown if _is_the_proxys(error) else FetchFailure)(Cause.UNREACHABLE, words)


def has_no_connection(error: BaseException) -> bool:
    """Whether an error comes of a connection that was refused, or could not be tried."""
    return any(isinstance(each, urllib3.exceptions.NewConnectionError) for each in behind(error))


def behind(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it, nearest first, in the ways that Python, urllib3 and yt-dlp keep them."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < DEEPEST:
        each = waiting.pop(0)
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), getattr(each, "cause", None)]
        waiting += list(getattr(each, "exc_info", None) or ())[1:2]


def _is_the_proxys(error: Exception) -> bool:
    """Whether it is a proxy that did not do its part. One that says why it could not reach the server did."""
    found = list(behind(error))
    if isinstance(error, EOFError):
        return True
    if any(_is_a_reply(each) for each in found):
        return False
    for each in found:
        if isinstance(each, socks.ProxyConnectionError | socks.SOCKS5AuthError | requests.exceptions.ProxyError):
            return True
        if isinstance(each, socks.GeneralProxyError):  # closed, reset, or no SOCKS; silence may be the server's
            return not isinstance(getattr(each, "socket_err", None), TimeoutError)
    pools = [type(each.pool).__name__ for each in found if isinstance(each, urllib3.exceptions.MaxRetryError)]
    return any("socks" in name.lower() for name in pools) and has_no_connection(error)


def _is_a_reply(error: BaseException) -> bool:
    """Whether a proxy says by it that it could not reach the server: HTTP's tunnel; SOCKS, as PySocks or yt-dlp do."""
    name = type(error).__name__.lower()
    if name in ("socks4error", "socks5error"):
        return error.args[:1] not in [(code,) for code in AUTHENTICATION]
    return "proxyerror" in name and "Tunnel connection failed" in str(error)
