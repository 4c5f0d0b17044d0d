"""Which CSV a `--segments` argument means: one of AudioSet's own by name, downloaded once, or the user's by path."""

from __future__ import annotations

import logging
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from pipeline.segments import SegmentError

OFFICIAL_SPLITS = ("eval", "balanced_train", "unbalanced_train")
# Source: https://research.google.com/audioset/download.html
OFFICIAL_URL = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
CACHE_VARIABLE = "AVLENS_CACHE"
MAX_DOWNLOAD_BYTES = 1 << 30  # ten times the largest official list
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10.0, 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SegmentList:
    """A split's name and its CSV (a local path or an fsspec URI)."""

    split: str
    path: str


def resolve_segments(argument: str, *, base_url: str = OFFICIAL_URL, cache: Path | None = None) -> SegmentList:
    """Read `eval`, `balanced_train`, `unbalanced_train` (AudioSet's own lists) or `NAME=PATH`.

    An official list that is not in the folder `cache` yet (None: `cache_folder()`) is downloaded from `base_url`.

    Raises:
        SegmentError: the argument has neither form, or an official list cannot be downloaded or is not one.
    """
    split, equals, path = argument.partition("=")
    if equals and path and re.fullmatch("[a-z0-9_]{1,64}", split):
        return SegmentList(split, path)
    if argument not in OFFICIAL_SPLITS:
        raise SegmentError(
            f"--segments {argument}: expected one of {', '.join(OFFICIAL_SPLITS)}, or NAME=PATH with a name of "
            "a-z, 0-9 and _ that the split will have in the store, such as --segments mine=segments.csv"
        )
    target = (cache or cache_folder()) / f"{argument}_segments.csv"
    if not target.exists():
        _download(f"{base_url}/{target.name}", target, f"{argument}=PATH")
    return SegmentList(argument, str(target))


def cache_folder() -> Path:
    """Where downloads are kept: `$AVLENS_CACHE`, or `avlens` in `$XDG_CACHE_HOME` (`~/.cache`)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avlens"


def _download(url: str, target: Path, remedy: str) -> None:
    """Put a checked segment list at `target` in one step: another process sees the whole file or none."""
    _log.info("downloading %s to %s", url, target)
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(url, part)
            _check_official(part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, SegmentError) as error:  # requests' own errors are OSErrors
        raise SegmentError(
            f"{url}: AudioSet's segment list cannot be downloaded ({error}). "
            f"Get it on another machine and give --segments {remedy}"
        ) from error


def _fetch(url: str, part: Path) -> None:
    with requests.Session() as session, part.open("wb") as file:
        retry = Retry(
            2, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), respect_retry_after_header=False
        )
        adapter = HTTPAdapter(max_retries=retry)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        with session.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
            response.raise_for_status()
            for chunk in response.iter_content(1 << 20):
                file.write(chunk)
                if file.tell() > MAX_DOWNLOAD_BYTES:
                    raise SegmentError(f"more than {MAX_DOWNLOAD_BYTES} bytes came")
        file.flush()
        os.fsync(file.fileno())


def _check_official(path: Path) -> None:
    """Official lists say in their second line how many segments follow, so a page or a cut file is told apart."""
    with path.open("rb") as file:
        head = file.readline(4096) + file.readline(4096)
        promised = re.match(rb"# Segments csv .*\r?\n# num_ytids=\d+, num_segs=(\d+),", head)
        if promised is None:
            raise SegmentError(f"expected '# Segments csv created …' and '# num_segs=…', got {head[:80]!r}")
        rows = sum(not line.startswith(b"#") for line in file)
    if rows != int(promised[1]):
        raise SegmentError(f"expected {int(promised[1])} segments as its header says, got {rows}")
