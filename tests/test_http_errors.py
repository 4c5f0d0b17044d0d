"""What errors of requests and urllib3 are classified as."""

from __future__ import annotations

import socket

import pytest
import requests
import urllib3

from pipeline import http_errors  # noqa: F401 - what is tested
from pipeline.failures import Cause, ProxyDown, classify


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (requests.ConnectTimeout("slow"), Cause.UNREACHABLE),
        (requests.exceptions.SSLError("certificate"), Cause.UNREACHABLE),
        (requests.exceptions.ProxyError("proxy"), Cause.UNREACHABLE),
        (requests.exceptions.ProxyError("Tunnel connection failed: 502 Bad Gateway"), Cause.UNREACHABLE),
        (requests.exceptions.ChunkedEncodingError("cut"), Cause.UNREACHABLE),
        (urllib3.exceptions.IncompleteRead(3, 5), Cause.UNREACHABLE),
        (urllib3.exceptions.ProtocolError("reset"), Cause.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_are_classified(error: Exception, cause: Cause) -> None:
    assert classify(error).cause == cause


def test_a_proxy_that_answers_is_there() -> None:
    assert isinstance(classify(requests.exceptions.ProxyError("Cannot connect to proxy")), ProxyDown)
    answered = requests.exceptions.ProxyError("Tunnel connection failed: 502 Bad Gateway")
    assert not isinstance(classify(answered), ProxyDown)


def test_a_refused_connection_and_an_unknown_name_are_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(url, timeout=5, proxies={"http": ""})
    assert classify(caught.value).cause == Cause.UNREACHABLE
