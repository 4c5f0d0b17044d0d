"""Egresses: the addresses that sources see us come from, by name, out of the options or a TOML file.

[home]
videos_per_hour = 250

[proxy-1]
proxy = "socks5h://10.0.0.7:1080"
cookies = "/secrets/proxy-1.txt"
source_address = "10.0.0.12"
requests_per_second = 5
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.clip import FetchOptions
from pipeline.politeness import Limits

DEFAULT = "default"
PROXIES = ("http", "https", "socks4", "socks5", "socks5h")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Egress:
    """One address.

    Attributes:
        name: what budget and breaker are kept under, for the whole cluster: letters, digits, - and _.
        proxy: URL; None for none given.
        cookies: file in Netscape format, which every node sees.
        source_address: the local address that connections are made from.
        videos_per_hour, requests_per_second: its own limits; None for those of the job.
    """

    name: str = DEFAULT
    proxy: str | None = None
    cookies: str | None = None
    source_address: str | None = None
    videos_per_hour: float | None = None
    requests_per_second: float | None = None

    def limits(
        self, videos_per_hour: float | None, requests_per_second: float | None, cooldown_s: float | None = None
    ) -> Limits:
        """Its limits, where it has none of its own those of the job; None for the default pause after "too many"."""
        videos = videos_per_hour if self.videos_per_hour is None else self.videos_per_hour
        requests = requests_per_second if self.requests_per_second is None else self.requests_per_second
        return Limits(videos, requests) if cooldown_s is None else Limits(videos, requests, cooldown_s=cooldown_s)

    def options(self, options: FetchOptions) -> FetchOptions:
        """The job's options as this egress fetches."""
        return replace(
            options,
            proxy=self.proxy if self.proxy is not None else options.proxy,
            cookie_file=self.cookies or options.cookie_file,
            source_address=self.source_address or options.source_address,
        )


def is_proxy(text: str) -> bool:
    """Whether a text is the URL of a proxy that can be used."""
    try:
        parts = urlsplit(text)
        return parts.scheme in PROXIES and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:  # no port
        return False


def read_egresses(path: str) -> tuple[Egress, ...]:
    """The egresses of a TOML file, a table each.

    Raises:
        ValueError: no such file, or not in that form; the message names what is wrong and where.
    """
    try:
        tables = tomllib.loads(Path(path).expanduser().read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"expected egresses as TOML in {path}: {error}") from error
    if not tables:
        raise ValueError(f"expected egresses in {path}, a table each: [name], proxy = …; it has none")
    return tuple(_egress(path, name, table) for name, table in tables.items())


def _egress(path: str, name: str, table: Any) -> Egress:
    kinds: dict[str, type | tuple[type, ...]] = {
        field.name: (int, float) if field.name.endswith(("_hour", "_second")) else str
        for field in fields(Egress)
        if field.name != "name"
    }
    if not _NAME.fullmatch(name):
        raise ValueError(f"{path}: expected a name of letters, digits, - and _, got [{name}]")
    if not isinstance(table, Mapping):
        raise ValueError(f"{path}: expected a table [{name}], got {name} = {table!r}")
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"{path}: [{name}] has {key!r}; expected {', '.join(kinds)}")
        if not isinstance(value, kinds[key]) or isinstance(value, bool):
            raise ValueError(f"{path}: [{name}] {key}: expected a {'text' if kinds[key] is str else 'number'}")
    egress = Egress(name, **table)
    if egress.proxy and not is_proxy(egress.proxy):
        raise ValueError(f"{path}: [{name}] proxy: expected {', '.join(PROXIES)}://host:port, got {egress.proxy!r}")
    if egress.source_address:
        try:
            ip_address(egress.source_address)
        except ValueError:
            raise ValueError(
                f"{path}: [{name}] source_address: expected an IP address, got {egress.source_address!r}"
            ) from None
    try:
        egress.limits(None, None)
    except ValueError as error:
        raise ValueError(f"{path}: [{name}] {error}") from None
    return egress
