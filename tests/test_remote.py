"""A remote file as a file object: compared with the same bytes in memory; every way a server can fail."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
import requests

from pipeline.clip import FetchOptions
from pipeline.failures import Cause, FetchFailure
from pipeline.http_session import new_session
from pipeline.loopback import LoopbackServer, Route, html_page
from pipeline.remote import RangeReader
from pipeline.transfer import Spending

MIB = 1 << 20
BODY = np.random.default_rng(0).bytes(6 * MIB + 12_345)
OPTIONS = FetchOptions(proxy="", read_timeout_s=0.5, deadline_s=20)


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with new_session(OPTIONS) as session:
        yield session


def opened(session: requests.Session, url: str, options: FetchOptions = OPTIONS) -> RangeReader:
    return RangeReader(session, url, Spending(options))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("size", [1, 255, MIB - 1, MIB, MIB + 1, 3 * MIB + 7, len(BODY)])
def test_random_reads_are_those_of_the_same_file_in_memory(session: requests.Session, ranges: bool, size: int) -> None:
    expected = io.BytesIO(BODY[:size])
    generator = random.Random(size)
    with LoopbackServer(routes={"/a": Route(data=BODY[:size], ranges=ranges)}) as server:
        reader = io.BufferedReader(opened(session, server.url + "/a"), 4096)
        for _ in range(60):
            if generator.random() < 0.5:
                offset, whence = generator.choice(
                    [(generator.randrange(size + 10), 0), (-generator.randrange(size), 2), (generator.randrange(99), 1)]
                )
                assert reader.seek(offset, whence) == expected.seek(offset, whence)
            length = generator.choice([0, 1, 10, 70_000, 1_500_000])
            assert reader.read(length) == expected.read(length)
            assert reader.tell() == expected.tell()
        assert reader.seek(0) == 0
        assert reader.read() == BODY[:size]
        reader.close()


def test_a_small_file_costs_one_request(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY[:MIB])}) as server:
        spending = Spending(OPTIONS)
        with RangeReader(session, server.url + "/a", spending) as reader:
            assert reader.size == MIB
            assert io.BufferedReader(reader).read() == BODY[:MIB]
        assert (spending.requests, spending.traffic) == (1, MIB)
        assert [(entry.range, entry.bytes) for entry in server.log()] == [(f"bytes=0-{MIB - 1}", MIB)]


def test_a_file_of_some_megabytes_costs_two_requests(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY[: 4 * MIB])}) as server:
        with opened(session, server.url + "/a") as reader:
            reader.seek(3 * MIB)
            reader.read(1)
            reader.seek(0)
            assert io.BufferedReader(reader).read() == BODY[: 4 * MIB]
        assert 2 <= len(server.log()) <= 3
        assert server.traffic() == 4 * MIB


def test_a_large_file_is_read_where_it_is_needed_and_nothing_twice(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY)}) as server:
        with opened(session, server.url + "/a") as reader:
            for position in (5 * MIB, 5 * MIB + 100, 10, 5 * MIB + 300_000):
                reader.seek(position)
                assert reader.read(10) == BODY[position : position + 10]
        assert len(server.log()) == 2
        assert server.traffic() == 2 * MIB


def test_reading_on_grows_to_megabyte_requests(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY)}) as server:
        with opened(session, server.url + "/a") as reader:
            assert io.BufferedReader(reader).read() == BODY
        sizes = [entry.bytes for entry in server.log()]
        assert sizes[:5] == [MIB, MIB // 4, MIB // 2, MIB, MIB]
        assert sum(sizes) == len(BODY)


def test_a_server_without_ranges_is_asked_once(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY, ranges=False)}) as server:
        with opened(session, server.url + "/a") as reader:
            reader.seek(-100, io.SEEK_END)
            assert reader.read(200) == BODY[-100:]
            reader.seek(0)
            assert reader.read(100) == BODY[:100]
        assert len(server.log()) == 1


def test_a_position_before_the_file_is_an_error(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=b"x" * 10)}) as server, opened(session, server.url + "/a") as reader:
        with pytest.raises(ValueError, match="-5"):
            reader.seek(-5)
        assert reader.readable()
        assert reader.seekable()


CAUSES = {
    "404": (Route(status=404), Cause.GONE),
    "410": (Route(status=410), Cause.GONE),
    "451": (Route(status=451), Cause.GONE),
    "403": (Route(status=403), Cause.UNREACHABLE),
    "429": (Route(status=429), Cause.THROTTLED),
    "500": (Route(status=500), Cause.UNREACHABLE),
    "hang": (Route(hang=True), Cause.UNREACHABLE),
    "header drips": (Route(data=BODY, header_bytes_per_s=5), Cause.UNREACHABLE),
    "empty": (Route(data=b""), Cause.UNREACHABLE),
    "empty without ranges": (Route(data=b"", ranges=False), Cause.UNREACHABLE),
    "page": (html_page(), Cause.UNREACHABLE),
    "page called video": (html_page("video/mp4"), Cause.UNREACHABLE),
    "page after blanks": (Route(data=b"\xef\xbb\xbf\r\n <html>"), Cause.UNREACHABLE),
    "json": (Route(data=b'{"error": "expired"}', content_type="video/mp4"), Cause.UNREACHABLE),
    "cut": (Route(data=BODY[:50_000], truncate_at=1000), Cause.UNREACHABLE),
    "cut without ranges": (Route(data=BODY[:50_000], ranges=False, truncate_at=1000), Cause.UNREACHABLE),
}


@pytest.mark.parametrize("name", CAUSES)
def test_every_way_to_fail_has_its_cause_in_time(session: requests.Session, name: str) -> None:
    route, cause = CAUSES[name]
    began = time.monotonic()
    with LoopbackServer(routes={"/a": route}) as server, pytest.raises(FetchFailure) as caught:
        io.BufferedReader(opened(session, server.url + "/a")).read()
    assert caught.value.cause == cause
    assert time.monotonic() - began < 3


def test_nobody_listening_is_unreachable(session: requests.Session) -> None:
    with LoopbackServer() as server:
        url = server.url
    with pytest.raises(FetchFailure) as caught:
        opened(session, url + "/a")
    assert caught.value.cause == Cause.UNREACHABLE


def test_a_body_that_drips_ends_with_the_deadline(session: requests.Session) -> None:
    options = FetchOptions(proxy="", read_timeout_s=5, deadline_s=0.5)
    with LoopbackServer(routes={"/a": Route(data=BODY, bytes_per_s=100)}) as server:
        began = time.monotonic()
        with pytest.raises(FetchFailure, match=r"unreachable: not fetched within 0\.5 s"):
            opened(session, server.url + "/a", options)
        assert time.monotonic() - began < 2


def test_a_failed_read_is_remembered_for_those_who_were_told_it_was_the_end(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY)}) as server, opened(session, server.url + "/a") as reader:
        server.set_route("/a", Route(status=500))
        reader.seek(3 * MIB)
        with pytest.raises(FetchFailure, match="500") as first:
            reader.read(10)
        with pytest.raises(FetchFailure) as again:
            reader.read(10)
        assert reader.failure is first.value is again.value
        assert len(server.log()) == 2


def test_a_file_that_changes_while_it_is_read_is_unreachable(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY)}) as server, opened(session, server.url + "/a") as reader:
        server.set_route("/a", Route(data=BODY[:-1]))
        reader.seek(3 * MIB)
        with pytest.raises(FetchFailure, match="unreachable: the file changed"):
            reader.read(10)


def test_a_server_that_forgets_about_ranges_is_unreachable(session: requests.Session) -> None:
    with LoopbackServer(routes={"/a": Route(data=BODY)}) as server, opened(session, server.url + "/a") as reader:
        server.set_route("/a", Route(data=BODY, ranges=False))
        reader.seek(3 * MIB)
        with pytest.raises(FetchFailure, match="unreachable: status 200"):
            reader.read(10)


def test_the_type_is_known_without_its_parameters(session: requests.Session) -> None:
    routes = {"/a": Route(data=b"text", content_type="Text/HTML; charset=utf-8"), "/b": Route(data=b"media")}
    with LoopbackServer(routes=routes) as server:
        assert opened(session, server.url + "/a").content_type == "text/html"
        assert opened(session, server.url + "/a").is_page
        assert not opened(session, server.url + "/b").is_page


def test_large_downloads_end_at_the_limit(session: requests.Session) -> None:
    options = FetchOptions(proxy="", max_bytes=2 * MIB)
    for ranges in (True, False):
        with LoopbackServer(routes={"/a": Route(data=BODY, ranges=ranges)}) as server:
            reader = opened(session, server.url + "/a", options)
            with pytest.raises(FetchFailure, match="undecodable: too large"):
                io.BufferedReader(reader).read()
            reader.close()
