"""What yt-dlp's errors are classified as: YouTube's texts as they arrive, statuses, and errors of the network."""

from __future__ import annotations

import io
from typing import Any

import pytest
from yt_dlp import YoutubeDL
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking.common import Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError
from yt_dlp.utils import DownloadError, ExtractorError, GeoRestrictedError, UnsupportedError

from pipeline import ytdlp_errors
from pipeline.failures import Cause, FetchFailure, Refused, classify
from pipeline.ytdlp_errors import SECOND_LOOK_S, is_bare_unavailable

HINT = (
    ". Use --cookies-from-browser or --cookies for the authentication. See  "
    "https://github.com/yt-dlp/yt-dlp/wiki/FAQ#how-do-i-pass-cookies-to-yt-dlp  for how to pass cookies. Also "
    "see  https://github.com/yt-dlp/yt-dlp/wiki/Extractors#exporting-youtube-cookies  for tips on cookies"
)
TEXTS = {
    Cause.THROTTLED: [
        "Sign in to confirm you’re not a bot" + HINT,
        "Sign in to confirm you're not a bot" + HINT,
        "Video unavailable. This content isn’t available, try again later. The current session has been rate-limited "
        "by YouTube for up to an hour. It is recommended to use `-t sleep` to add a delay between video requests",
        "This content isn't available, try again later. Your account has been rate-limited by YouTube for an hour",
        "Video unavailable. YouTube is requiring a captcha challenge before playback",
        "Unable to download webpage: HTTP Error 429: Too Many Requests",
        "All player responses are invalid. Your IP is likely being blocked by Youtube",
        "The following content is not available on this app.. Watch on the latest version of YouTube",
        "Please sign in" + HINT,
    ],
    Cause.UNREACHABLE: [
        "Unable to download API page: The read operation timed out",
        "Unable to download webpage: HTTP Error 503: Service Unavailable",
        "1048 bytes read, 2000 more expected",
        "Unable to download API page: [Errno 104] Connection reset by peer",
        "Unable to download webpage: <urlopen error [Errno -3] Temporary failure in name resolution>",
        "Failed to extract any player response",
        "The page needs to be reloaded.",
        "We're processing this video. Check back later.",
        "This live event will begin in 3 hours.",
        "Premieres in 2 days",
        "Requested format is not available. Use --list-formats for a list of available formats",
        "A sentence that YouTube came up with yesterday",
    ],
    Cause.GONE: [
        "Private video. Sign in if you've been granted access to this video" + HINT,
        "This is a private video. Please sign in to verify that you may see it." + HINT,
        "Video unavailable. This video is private",
        "Video unavailable. This video has been removed by the uploader",
        "This video has been removed for violating YouTube's Terms of Service",
        "This video has been removed for violating YouTube’s policy on hate speech.",
        "Video unavailable. This video is no longer available because the YouTube account associated with this video "
        "has been terminated.",
        "Video unavailable. This video is no longer available due to a copyright claim by Someone",
        "Video unavailable. This video contains content from SME, who has blocked it on copyright grounds",
        "This video is no longer available because the uploader has closed their YouTube account.",
        "This live stream recording is not available.",
        "Video unavailable. This video isn't available anymore",
        "This video does not exist.",
        "Unable to download webpage: HTTP Error 404: Not Found",
        "Unable to download webpage: HTTP Error 410: Gone",
    ],
    Cause.GONE_HERE: [
        "The uploader has not made this video available in your country",
        "Video unavailable. This video contains content from SME, who has blocked it in your country on copyright "
        "grounds",
        "Sign in to confirm your age. This video may be inappropriate for some users" + HINT,
        "This video is age-restricted and only available on YouTube",
        "Join this channel to get access to members-only content like this video, and other exclusive perks.",
        "This video is available to this channel's members on level: Gold (or any higher level).",
        "This video requires payment to watch.",
        "This video is only available to Music Premium members",
        "This video is DRM protected",
        "This video is not available from your location due to geo restriction",
        "This video is only available for registered users",
    ],
}


@pytest.mark.parametrize(("cause", "text"), [(cause, text) for cause, texts in TEXTS.items() for text in texts])
def test_texts_of_youtube(cause: Cause, text: str) -> None:
    failure = through_ytdlp(ExtractorError(text, expected=True, video_id="x"))
    assert failure.cause == cause
    assert failure.retry_after_s is None


@pytest.mark.parametrize(
    "text",
    [
        "Video unavailable",
        "Video unavailable.",
        "This video is unavailable",
        "This video is not available",
        "Video unavailable. This video is not available",
        "Video unavailable. This content isn’t available.",
    ],
)
def test_a_bare_video_unavailable_is_looked_at_once_more_days_later(text: str) -> None:
    failure = through_ytdlp(ExtractorError(text, expected=True, video_id="x"))
    assert (failure.cause, failure.retry_after_s) == (Cause.GONE, SECOND_LOOK_S)
    assert SECOND_LOOK_S >= 86_400


def test_more_than_unavailable_is_not_bare() -> None:
    assert not is_bare_unavailable("Video unavailable. It moved to another planet")
    assert not is_bare_unavailable("")


class Scripted(InfoExtractor):
    """Raises what it is told to, where yt-dlp's own extractors would."""

    _VALID_URL = r"scripted:x"
    error: Exception

    def _real_extract(self, url: str) -> Any:
        raise self.error


def through_ytdlp(error: Exception) -> FetchFailure:
    """The failure of an error after all that yt-dlp does to it on its way out."""
    with YoutubeDL({"quiet": True, "logger": Silent()}, auto_init=False) as resolver:
        extractor = Scripted()
        extractor.error = error
        resolver.add_info_extractor(extractor)
        with pytest.raises(Exception) as caught:
            resolver.extract_info("scripted:x", download=False)
    return classify(caught.value)


class Silent:
    """A logger."""

    def debug(self, message: str) -> None:
        pass

    warning = error = debug


def answer(status: int, **headers: str) -> HTTPError:
    return HTTPError(Response(io.BytesIO(b""), "http://h/x", headers, status))


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (404, Cause.GONE),
        (410, Cause.GONE),
        (403, Cause.UNREACHABLE),
        (400, Cause.UNREACHABLE),
        (500, Cause.UNREACHABLE),
    ],
)
def test_statuses_while_resolving(status: int, cause: Cause) -> None:
    failure = through_ytdlp(ExtractorError("Unable to download webpage", cause=answer(status), video_id="x"))
    assert failure.cause == cause
    assert failure.words == f"HTTP status {status} while resolving"
    assert isinstance(failure, Refused) == (status == 403)


def test_a_429_keeps_the_wait_that_was_asked_for() -> None:
    error = answer(429, **{"Retry-After": "40"})
    failure = through_ytdlp(ExtractorError(f"Unable to download webpage: {error}", cause=error))
    assert (failure.cause, failure.retry_after_s) == (Cause.THROTTLED, 40)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (TransportError("[Errno 111] Connection refused"), Cause.UNREACHABLE),
        (IncompleteRead(3, 5), Cause.UNREACHABLE),
        (GeoRestrictedError("Not for you", countries=["DE"]), Cause.GONE_HERE),
        (UnsupportedError("http://h/page"), Cause.UNREACHABLE),
        (KeyError("streamingData"), Cause.UNREACHABLE),
        (ExtractorError("Unable to extract title"), Cause.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_other_errors(error: Exception, cause: Cause) -> None:
    assert through_ytdlp(error).cause == cause


def test_the_words_are_the_sites_without_advice_or_id() -> None:
    private = through_ytdlp(ExtractorError("Private video. Sign in if you've been granted access" + HINT, video_id="x"))
    assert private.words == "Private video. Sign in if you've been granted access"
    assert classify(DownloadError("ERROR: [youtube] abc: Video unavailable")).words == "Video unavailable"
    bug = through_ytdlp(ExtractorError("Unable to extract title"))
    assert bug.words == "Unable to extract title"


def test_a_text_of_no_known_class() -> None:
    assert ytdlp_errors.cause_of_text("A sentence that YouTube came up with yesterday") is None
