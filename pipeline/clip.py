"""What every source takes and gives: the options of fetching, the fetched clip, and the protocol of a fetcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.segments import Segment

MIB = 1 << 20


@dataclass(frozen=True)
class FetchOptions:
    """How media are fetched.

    Attributes:
        connect_timeout_s: seconds to connect.
        read_timeout_s: seconds to wait for the header of an answer, and for the next bytes of its body.
        deadline_s: seconds for everything that one segment needs; then it is `unreachable`.
        max_bytes: what one segment may move over the network, and what a kept file of a folder may have; beyond it is
            `undecodable`.
        max_clip_bytes: what a segment's media from the network may have: several threads hold some in memory.
        proxy: its URL; None: the environment's; "": none.
        source_address: the local address that connections are made from; None: the system's choice.
        cookie_file: cookies in Netscape format; read, never written.
        ca_file: certificates to trust instead of the bundled ones (PEM) when media are read.
        keep: a directory gives the segment's bytes too, cut out of longer files; otherwise files stay where they are.
        user_agent: what the http source calls itself.
        ytdlp_params: further parameters of `yt_dlp.YoutubeDL`, for example `{"extractor_args": …}`; they win over ours.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 20.0
    deadline_s: float = 180.0
    max_bytes: int = 256 * MIB
    max_clip_bytes: int = 64 * MIB
    proxy: str | None = None
    source_address: str | None = None
    cookie_file: str | None = None
    ca_file: str | None = None
    keep: bool = False
    user_agent: str = "avlens"
    ytdlp_params: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FetchedClip:
    """A segment's media.

    Attributes:
        data: the bytes; None for a file that stays where it is.
        path: that file; None where data are given.
        extension: of the container, lower case, without the dot.
        media_start_ms: where the segment starts on the media's own presentation timeline; None: only decoding can tell.
        sha256: hex digest of the media's bytes.
        size: number of the media's bytes.
        traffic: body bytes of media that crossed the network for it.
        requests: HTTP requests made for it, redirects and yt-dlp's included.
        origin: kind of the source: dir, http, ytdlp or youtube.
    """

    segment: Segment
    data: bytes | None
    path: str | None
    extension: str
    media_start_ms: int | None
    sha256: str
    size: int
    traffic: int
    requests: int
    origin: str


class Fetcher(Protocol):
    """A source of media. `fetch` may be called from several threads at once; `close` once, after the last of them."""

    def fetch(self, segment: Segment) -> FetchedClip:
        """The segment's media. Raises: FetchFailure with one of the closed list of causes."""
        ...

    def close(self) -> None:
        """Gives up connections and files."""
        ...
