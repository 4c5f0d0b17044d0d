"""Egresses out of a file: what they change, and what is said of a file that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.clip import FetchOptions
from pipeline.egress import Egress, is_proxy, read_egresses


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_each_table_is_an_egress(tmp_path: Path) -> None:
    text = '[home]\n[proxy-1]\nproxy = "socks5h://10.0.0.7:1080"\ncookies = "/c.txt"\nvideos_per_hour = 20\n'
    assert read_egresses(written(tmp_path / "e.toml", text)) == (
        Egress("home"),
        Egress("proxy-1", "socks5h://10.0.0.7:1080", "/c.txt", None, 20),
    )


def test_what_an_egress_does_not_say_is_the_jobs() -> None:
    job = FetchOptions(proxy="http://p:1", cookie_file="/job.txt", read_timeout_s=3.0)
    assert Egress().options(job) == job
    own = Egress("a", proxy="", cookies="/own.txt", source_address="127.0.0.2").options(job)
    assert (own.proxy, own.cookie_file, own.source_address, own.read_timeout_s) == ("", "/own.txt", "127.0.0.2", 3.0)
    assert Egress("a", videos_per_hour=5).limits(300, 2).videos_per_hour == 5
    assert Egress("a").limits(300, 2) == Egress("b", requests_per_second=2).limits(300, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has none"),
        ("[home", "expected egresses as TOML"),
        ("home = 3", r"expected a table \[home\]"),
        ("[a]\nporxy = 'x'", "'porxy'; expected proxy, cookies"),
        ("[a]\nproxy = 3", "proxy: expected a text"),
        ("[a]\nproxy = 'ftp://x'", "expected http, https, socks4"),
        ("[a]\nvideos_per_hour = 'many'", "videos_per_hour: expected a number"),
        ("[a]\nvideos_per_hour = true", "expected a number"),
        ("[a]\nvideos_per_hour = -1", "expected videos_per_hour of 0.01"),
        ("[a]\nvideos_per_hour = 0", "expected videos_per_hour of 0.01"),
        ("[a]\nrequests_per_second = 1" + 400 * "0", "expected requests_per_second of 0.01"),
        ("['../up']", "letters, digits"),
        ("a = " + 3000 * "[" + 3000 * "]", "expected egresses as TOML"),
        ("[a]\nproxy = 'http://127.0.0.1:99999'", "proxy: expected http"),
        ("[a]\nsource_address = '999.1'", "source_address: expected an IP address, got '999.1'"),
    ],
)
def test_what_is_none_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_egresses(written(tmp_path / "e.toml", text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.toml"):
        read_egresses(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("http://h:3", True),
        ("socks5h://h:1", True),
        ("http://user:word@[::1]:8080", True),
        ("http://h", True),
        ("http://", False),
        ("h:3", False),
        ("http://h:99999", False),
        ("http://h:x", False),
        ("http://h\0:3", False),
        ("http://[::1:3", False),
    ],
)
def test_proxies(text: str, good: bool) -> None:
    assert is_proxy(text) == good
