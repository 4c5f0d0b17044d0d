"""URL templates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.segments import Segment
from pipeline.template import UrlTemplate


def segment(ytid: str = "-a_B1", start_ms: int = 30_000, end_ms: int = 40_500) -> Segment:
    return Segment(f"{ytid}_{start_ms}", ytid, start_ms, end_ms, (), ())


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("http://h/{ytid}.mp4", "http://h/-a_B1.mp4"),
        ("https://h:8/v/{key}?from={start_ms}&to={end_ms}", "https://h:8/v/-a_B1_30000?from=30000&to=40500"),
        ("http://h/{ytid}_{start_s}_{end_s}", "http://h/-a_B1_30_40.5"),
        ("http://h/%7B{{x}}/{ytid}", "http://h/%7B{x}/-a_B1"),
    ],
)
def test_fields(template: str, url: str) -> None:
    assert UrlTemplate(template).url(segment()) == url


def test_seconds_are_never_in_exponents() -> None:
    assert UrlTemplate("http://h/{ytid}/{start_s}").url(segment(start_ms=1_234_567_008)) == "http://h/-a_B1/1234567.008"


@given(st.text(min_size=1))
def test_an_id_cannot_change_the_path(ytid: str) -> None:
    ytid = ytid.encode("utf-8", "replace").decode()
    url = UrlTemplate("http://h/v/{ytid}.mp4").url(segment(ytid))
    assert url.startswith("http://h/v/")
    assert not set("/?#&\\ %") & set(url.removeprefix("http://h/v/").replace("%", "", url.count("%")))


def test_whether_the_url_says_which_segment() -> None:
    assert not UrlTemplate("http://h/{ytid}.mp4").names_segment
    assert UrlTemplate("http://h/{ytid}-{start_s}.mp4").names_segment
    assert UrlTemplate("http://h/{key}.mp4").names_segment


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("http://h/{id}.mp4", "unknown fields 'id'"),
        ("http://h/{ytid.__class__}", "unknown fields 'ytid.__class__'"),
        ("http://h/{}", "unknown fields ''"),
        ("http://h/{0}", "unknown fields '0'"),
        ("http://h/{ytid!r}", "a field with a format"),
        ("http://h/{ytid:>9}", "a field with a format"),
        ("http://h/{start_ms}.mp4", "names no video"),
        ("http://h/clip.mp4", "names no video"),
        ("http://h/{ytid", "expected"),
        ("ftp://h/{ytid}", "not an http or https URL"),
        ("file:///{ytid}", "not an http or https URL"),
        ("{ytid}", "not an http or https URL"),
        ("http:///{ytid}", "not an http or https URL"),
    ],
)
def test_what_is_refused_is_explained(template: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")) as caught:
        UrlTemplate(template)
    assert template in str(caught.value)
