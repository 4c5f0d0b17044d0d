"""yt-dlp resolves, we read: with its generic extractor against a loopback server, and with extractors of our own."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from media_factory import Audio, Video, music, write_media
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.utils import ExtractorError

from pipeline.clip import FetchedClip, FetchOptions
from pipeline.failures import Cause, FetchFailure, ProxyDown
from pipeline.loopback import LoopbackServer, Route, html_page
from pipeline.media import FrameSpec, decode_clip
from pipeline.segments import Segment
from pipeline.template import UrlTemplate
from pipeline.youtube import REFUSALS_BEFORE_ALARM, YtdlpFetcher, javascript_runtime

OPTIONS = FetchOptions(proxy="", read_timeout_s=1, deadline_s=30, ytdlp_params={"cachedir": False})
FRAMES = FrameSpec(fps=5.0, size=32)


def segment(ytid: str = "video", start_ms: int = 12_000, end_ms: int = 16_000) -> Segment:
    return Segment(f"{ytid}_{start_ms}", ytid, start_ms, end_ms, (), ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`video.mp4` of 24 s, and its two tracks as `134.mp4` and `140.m4a`."""
    folder = tmp_path_factory.mktemp("media")
    video = Video(seconds=24, fps=10, width=96, height=64, key_every=40)
    whole = write_media(folder / "video.mp4", video, Audio(seconds=24, samples=music(24, 44_100, 2)), faststart=True)
    for kind, name in (("video", "134.mp4"), ("audio", "140.m4a")):
        with av.open(whole) as source, av.open(str(folder / name), "w", format="mp4") as output:
            stream = output.add_stream_from_template(source.streams.best(kind), opaque=True)
            for packet in source.demux(source.streams.best(kind)):
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[LoopbackServer]:
    with LoopbackServer(folder) as server:
        yield server


def generic(server: LoopbackServer, path: str = "/{ytid}.mp4") -> YtdlpFetcher:
    return YtdlpFetcher(UrlTemplate(server.url + path), OPTIONS)


def check(clip: FetchedClip, folder: Path) -> None:
    """That it is decoded to what the whole file is."""
    wanted = clip.segment
    span = {
        "segment_start_ms": wanted.start_ms,
        "segment_end_ms": wanted.end_ms,
        "sample_rate": 16_000,
        "frames": FRAMES,
    }
    assert clip.data is not None
    cut = decode_clip(clip.data, start_ms=clip.media_start_ms, **span)
    whole = decode_clip(folder / "video.mp4", start_ms=wanted.start_ms, **span)
    assert (cut.waveform == whole.waveform).all()
    assert (cut.frames == whole.frames).all()


def test_the_generic_extractor_resolves_and_the_segment_is_cut(server: LoopbackServer, folder: Path) -> None:
    fetcher = generic(server)
    clip = fetcher.fetch(segment())
    check(clip, folder)
    assert (clip.origin, clip.extension) == ("ytdlp", "mp4")
    assert clip.requests == len(server.log()) == 2
    assert [entry.range is None for entry in server.log()] == [True, False]
    fetcher.close()


@pytest.mark.parametrize(
    ("route", "cause"),
    [
        (Route(status=404), Cause.GONE),
        (Route(status=410), Cause.GONE),
        (Route(status=403), Cause.UNREACHABLE),
        (Route(status=429, retry_after="33"), Cause.THROTTLED),
        (Route(status=500), Cause.UNREACHABLE),
        (Route(hang=True), Cause.UNREACHABLE),
        (html_page(), Cause.UNREACHABLE),
        (html_page("video/mp4"), Cause.UNREACHABLE),
        (Route(data=b""), Cause.UNREACHABLE),
        (Route(data=b"text\n" * 100, content_type="video/mp4"), Cause.UNDECODABLE),
        (Route(truncate_at=1000), Cause.UNREACHABLE),
    ],
    ids=["404", "410", "403", "429", "500", "time-out", "HTML", "HTML called video", "empty", "text", "cut"],
)
def test_failures_are_typed(server: LoopbackServer, route: Route, cause: Cause) -> None:
    server.set_route("/video.mp4", route)
    began = time.monotonic()
    with pytest.raises(FetchFailure) as caught:
        generic(server).fetch(segment())
    assert time.monotonic() - began < 8
    assert caught.value.cause == cause
    assert caught.value.retry_after_s == (33 if route.status == 429 else None)


def test_a_template_that_names_the_segment_may_give_its_clip(server: LoopbackServer, folder: Path) -> None:
    data = write_media(folder / "own.mp4", audio=Audio(seconds=4), faststart=True).read_bytes()
    clip = generic(server, "/{ytid}.mp4?start={start_s}").fetch(segment("own"))
    assert (clip.data, clip.media_start_ms) == (data, 0)


class Site(InfoExtractor):
    """A site of our own: one video in two formats, or whatever `info` says."""

    _VALID_URL = r"https?://site\.example/(?P<id>.*)"
    info: dict[str, Any]
    resolved = 0

    def _real_extract(self, url: str) -> dict[str, Any]:
        type(self).resolved += 1
        return {"id": self._match_id(url), "title": "x", **self.info}


@pytest.fixture
def site(server: LoopbackServer) -> type[Site]:
    """A site whose two formats are files of the loopback server."""
    formats = [
        {"format_id": "134", "url": server.url + "/134.mp4", "ext": "mp4", "acodec": "none", "height": 360},
        {"format_id": "140", "url": server.url + "/140.m4a", "ext": "m4a", "vcodec": "none"},
        {"format_id": "sb0", "url": server.url + "/storyboard", "ext": "mhtml", "protocol": "mhtml"},
        {"format_id": "hls", "url": server.url + "/x.m3u8", "ext": "mp4", "protocol": "m3u8_native", "height": 1080},
    ]
    info = {"formats": formats, "duration": 24, "http_headers": {"X-Test": "1"}}
    return type("Site", (Site,), {"info": info, "resolved": 0, "ie_key": classmethod(lambda cls: "Site")})


def through(site: type[Site], options: FetchOptions = OPTIONS) -> YtdlpFetcher:
    return YtdlpFetcher(UrlTemplate("https://site.example/{ytid}"), options, origin="youtube", extractors=[site])


def test_two_formats_become_one_file(site: type[Site], server: LoopbackServer, folder: Path) -> None:
    clip = through(site).fetch(segment())
    check(clip, folder)
    assert clip.origin == "youtube"
    assert sorted(entry.path for entry in server.log()) == ["/134.mp4", "/140.m4a"]
    with av.open(folder / "video.mp4") as container:
        assert Fraction(clip.media_start_ms or 0, 1000).denominator == 1
        assert len(container.streams) == 2


def test_format_18_comes_first(site: type[Site], server: LoopbackServer) -> None:
    site.info["formats"].append({"format_id": "18", "url": server.url + "/video.mp4", "ext": "mp4", "height": 360})
    through(site).fetch(segment())
    assert [entry.path for entry in server.log()] == ["/video.mp4"]


def test_manifests_are_no_files(site: type[Site]) -> None:
    site.info["formats"] = [each for each in site.info["formats"] if each["format_id"] == "hls"]
    with pytest.raises(FetchFailure, match="unreachable: Requested format is not available"):
        through(site).fetch(segment())


def test_a_refused_media_url_is_resolved_anew_once(site: type[Site], server: LoopbackServer, folder: Path) -> None:
    server.set_route("/140.m4a", Route(status=403, times=1))
    check(through(site).fetch(segment()), folder)
    assert site.resolved == 2


def test_after_a_refusal_the_second_answer_counts(site: type[Site], server: LoopbackServer) -> None:
    server.set_route("/134.mp4", Route(status=403))
    info = site.info

    class Vanishing(site):  # type: ignore[misc, valid-type]
        def _real_extract(self, url: str) -> dict[str, Any]:
            type(self).resolved += 1
            if type(self).resolved > 1:
                raise ExtractorError("A sentence that YouTube came up with yesterday", expected=True)
            return {"id": "x", "title": "x", **info}

    with pytest.raises(FetchFailure) as caught:
        through(Vanishing).fetch(segment())
    assert caught.value.words == "A sentence that YouTube came up with yesterday"


def test_many_refusals_are_an_alarm(site: type[Site], server: LoopbackServer, caplog: pytest.LogCaptureFixture) -> None:
    server.set_route("/134.mp4", Route(status=403))
    fetcher = through(site)
    for count in range(1, REFUSALS_BEFORE_ALARM + 1):
        assert "out of date" not in caplog.text
        with pytest.raises(FetchFailure, match="unreachable: HTTP status 403"):
            fetcher.fetch(segment())
        assert site.resolved == 2 * count
    assert "out of date" in caplog.text


def test_formats_that_come_soon_are_waited_for(site: type[Site], folder: Path) -> None:
    site.info["formats"][0]["available_at"] = time.time() + 0.5
    began = time.monotonic()
    check(through(site).fetch(segment()), folder)
    assert time.monotonic() - began > 0.45


def test_formats_that_come_later_are_asked_for_later(site: type[Site], server: LoopbackServer) -> None:
    site.info["formats"][0]["available_at"] = time.time() + 600
    with pytest.raises(FetchFailure) as caught:
        through(site).fetch(segment())
    assert caught.value.cause == Cause.UNREACHABLE
    assert caught.value.retry_after_s == pytest.approx(600, abs=5)
    assert server.log() == []


def test_a_segment_after_the_videos_end_costs_no_media(site: type[Site], server: LoopbackServer) -> None:
    with pytest.raises(FetchFailure, match="undecodable: the segment starts at 30 s, the video is 24 s long"):
        through(site).fetch(segment(start_ms=30_000, end_ms=40_000))
    assert server.log() == []


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"live_status": "is_upcoming"}, "not a finished video yet"),
        ({"_type": "playlist", "entries": []}, "a page with 0 videos"),
    ],
)
def test_what_is_no_video(site: type[Site], info: dict[str, Any], words: str) -> None:
    site.info.update(info)
    with pytest.raises(FetchFailure, match=f"unreachable: {words}"):
        through(site).fetch(segment())


def test_cookies_come_from_the_file_and_are_never_written_back(
    site: type[Site], server: LoopbackServer, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\tabc\n"
    file.write_text(text)
    fetcher = through(site, FetchOptions(proxy="", cookie_file=str(file), ytdlp_params={"cachedir": False}))
    check(fetcher.fetch(segment()), folder)
    fetcher.close()
    assert file.read_text() == text
    file.write_text("nonsense")
    with pytest.raises(ValueError, match="Netscape format"):
        through(site, FetchOptions(cookie_file=str(file)))


def test_the_deadline_counts_resolving(site: type[Site]) -> None:
    class Slow(site):  # type: ignore[misc, valid-type]
        def _real_extract(self, url: str) -> dict[str, Any]:
            time.sleep(0.3)
            self._download_webpage(url, "x")
            raise AssertionError("no request was to be made")

    options = FetchOptions(proxy="", deadline_s=0.2, ytdlp_params={"cachedir": False})
    with pytest.raises(FetchFailure, match=r"unreachable: not fetched within 0\.2 s"):
        through(Slow, options).fetch(segment())


def test_several_threads_fetch_at_once(site: type[Site], folder: Path) -> None:
    fetcher = through(site)
    clips: list[FetchedClip] = []

    def work(start_ms: int) -> None:
        clips.append(fetcher.fetch(segment(start_ms=start_ms, end_ms=start_ms + 4000)))

    threads = [threading.Thread(target=work, args=(3000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(clip.segment.start_ms for clip in clips) == [0, 3000, 6000, 9000]
    for clip in clips:
        check(clip, folder)
    fetcher.close()


def test_deno_is_found_in_its_package(caplog: pytest.LogCaptureFixture) -> None:
    assert (javascript_runtime() or "").startswith("deno ")
    with caplog.at_level(logging.ERROR):
        YtdlpFetcher(UrlTemplate("https://www.youtube.com/watch?v={ytid}"), OPTIONS, origin="youtube").close()
    assert caplog.text == ""


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_dead_proxy_is_no_clips_fault(server: LoopbackServer, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        options = replace(OPTIONS, proxy=f"{scheme}://127.0.0.1:{unused.getsockname()[1]}")
        fetcher = YtdlpFetcher(UrlTemplate("http://site.example/{ytid}.mp4"), options)
        with pytest.raises(ProxyDown):
            fetcher.fetch(segment("clip"))
        fetcher.close()
