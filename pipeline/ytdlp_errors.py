"""What yt-dlp's errors mean: statuses and exception types first where they say more, then the texts of YouTube.

Importing this module teaches `pipeline.failures.classify` yt-dlp's errors. Sources: VIDEO.md section 4; the texts of
yt-dlp's extractor/youtube/_video.py and its issues 10128 and 10108 ("not available on this app" and "please sign in" is
what addresses that asked too much are told).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from yt_dlp.networking.exceptions import HTTPError, ProxyError, TransportError
from yt_dlp.utils import ExtractorError, GeoRestrictedError, YoutubeDLError

from pipeline.failures import Cause, FetchFailure, ProxyDown, classify, failure_of_status, plain_words

SECOND_LOOK_S = 2 * 86_400.0

# Lower case, "'" for U+2019. The order decides: texts of the first class may begin with "Video unavailable", and a
# block in one country may mention copyright.
_TEXTS: tuple[tuple[Cause, re.Pattern[str]], ...] = tuple(
    (cause, re.compile("|".join(patterns)))
    for cause, patterns in (
        (
            Cause.THROTTLED,
            (
                r"not a bot",
                r"try again later",
                r"rate[- ]limit",
                r"captcha",
                r"too many requests",
                r"http error 429",
                r"unusual traffic",
                r"ip is likely being blocked",
                r"not available on this app",
                r"(^|[:.] )please sign in(?! to (verify|view))",
            ),
        ),
        (
            Cause.UNREACHABLE,
            (
                r"timed? ?out",
                r"http error 5\d\d",
                r"incompleteread",
                r"bytes read",
                r"connection (reset|refused|aborted|broken)",
                r"remote end closed",
                r"name resolution|name or service not known|getaddrinfo",
                r"failed to extract any player response",
                r"page needs to be reloaded",
                r"processing this video",
                r"(live event|premiere) will begin|premieres in",
            ),
        ),
        (
            Cause.GONE_HERE,
            (r"(in|from|to) your (country|region|location)", r"blocked it in", r"geo[- ]?restrict"),
        ),
        (
            Cause.GONE,
            (
                r"private video|video is private",
                r"\bremoved\b",
                r"\bterminated\b",
                r"copyright",
                r"\bviolat",
                r"no longer available|available anymore",
                r"\bdeleted\b|does not exist|doesn't exist",
                r"closed their youtube account",
                r"recording is not available",
                r"http error (404|410|451)",
            ),
        ),
        (
            Cause.GONE_HERE,
            (
                r"country|\bregion\b",
                r"(confirm|verify) your age|age[- ]restrict|inappropriate for some",
                r"members[- ]only|members on level|channel's members|premium members|join this channel",
                r"payment|purchase|\brent(al)?\b|premium",
                r"\bdrm\b",
                r"log ?in (required|details)|only available for registered|sign in",
            ),
        ),
    )
)
_BARE = re.compile(
    r"(video unavailable)?[.\s]*(this (video|content) (is|isn't) (unavailable|not available|available))?[.\s]*"
)
# Where yt-dlp's advice begins.
_ADVICE = re.compile(
    r"[.;]? +(Use --cookies|It is recommended to|For more information|You might want to use)|; please report this"
)


def cause_of_text(text: str) -> Cause | None:
    """The class of a text of YouTube or yt-dlp; None: unknown, or a bare "Video unavailable"."""
    plain = text.replace("\u2019", "'").lower()
    return next((cause for cause, pattern in _TEXTS if pattern.search(plain)), None)


def is_bare_unavailable(text: str) -> bool:
    """Whether a text says that the video is unavailable, and no more."""
    plain = text.replace("\u2019", "'").strip().lower()
    return bool(plain) and _BARE.fullmatch(plain) is not None


@classify.register
def _(error: YoutubeDLError) -> FetchFailure:
    chain = list(_chain(error))
    text = _text(chain)
    words = plain_words(_ADVICE.split(text, maxsplit=1)[0])
    if (cause := cause_of_text(text)) == Cause.THROTTLED:
        return FetchFailure(Cause.THROTTLED, words, _asked_wait(chain))
    for each in chain:
        if isinstance(each, HTTPError):
            failure = failure_of_status(each.status, each.response.headers.get("Retry-After"))
            return type(failure)(failure.cause, f"{failure.words} while resolving", failure.retry_after_s)
        if isinstance(each, GeoRestrictedError):
            return FetchFailure(Cause.GONE_HERE, words)
        if isinstance(each, ProxyError) and "Tunnel connection failed" not in str(each):
            return ProxyDown(Cause.UNREACHABLE, words)
        if isinstance(each, TransportError):
            return FetchFailure(Cause.UNREACHABLE, words)
    if cause is not None:
        return FetchFailure(cause, words)
    if is_bare_unavailable(text):
        # It may be passing: looked at once more, days later, then it is gone.
        return FetchFailure(Cause.GONE, words, SECOND_LOOK_S)
    # YouTube invents texts, and yt-dlp's bugs pass with its next release: neither is a loss yet, nor a bug of ours.
    return FetchFailure(Cause.UNREACHABLE, words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it, in yt-dlp's ways of keeping them and Python's."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 16:
        each = waiting.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, YoutubeDLError):
            exc_info, cause = getattr(each, "exc_info", None), getattr(each, "cause", None)
            waiting += [exc_info[1] if exc_info else None, cause if isinstance(cause, BaseException) else None]
            waiting += [each.__cause__, each.__context__]


def _text(chain: list[BaseException]) -> str:
    """The extractor's own message; `str(error)` has the id before it and a request to report a bug after it."""
    for each in chain:
        if isinstance(each, ExtractorError):
            return str(each.orig_msg)
    return re.sub(r"^ERROR: (\[[^]]*\] (\S+: )?)?", "", str(chain[0]))


def _asked_wait(chain: list[BaseException]) -> float | None:
    for each in chain:
        if isinstance(each, HTTPError):
            return failure_of_status(each.status, each.response.headers.get("Retry-After")).retry_after_s
    return None
