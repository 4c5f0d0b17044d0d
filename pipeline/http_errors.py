"""Which failure an error of requests or urllib3 is.

Importing this module teaches `pipeline.failures.classify` these errors.
"""

from __future__ import annotations

import requests
import urllib3

from pipeline.failures import Cause, FetchFailure, ProxyDown, classify, plain_words


@classify.register(requests.RequestException)
@classify.register(urllib3.exceptions.HTTPError)
def _(error: Exception) -> FetchFailure:
    return FetchFailure(Cause.UNREACHABLE, plain_words(f"{type(error).__name__}: {error}"))


@classify.register(requests.exceptions.ProxyError)
def _(error: Exception) -> FetchFailure:
    words = plain_words(f"{type(error).__name__}: {error}")
    # A proxy that answers, if only that it could not reach the server, is there.
    return (FetchFailure if "Tunnel connection failed" in words else ProxyDown)(Cause.UNREACHABLE, words)
