"""A bucket of an S3 server on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests


@contextmanager
def s3_bucket(name: str = "bucket", before: Callable[[Any], Any] = lambda app: app) -> Iterator[dict[str, Any]]:
    """Runs moto's server in a thread. Gives the fsspec options that reach it.

    Args:
        before: puts something before the server's WSGI application, once the bucket is there.
    """
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": f"http://{host}:{port}"}}
    s3fs.S3FileSystem(**options).mkdir(name)
    plain = server._server.app
    server._server.app = before(plain)
    try:
        yield options
    finally:
        server._server.app = plain
        # Its buckets are the process's, not the server's: the next server would have them still.
        requests.post(f"http://{host}:{port}/moto-api/reset", timeout=10).raise_for_status()
        server.stop()
