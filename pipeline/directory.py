"""A folder of media files as a source: `<ytid>.*`, `Y<ytid>.*` and `<ytid>_<start>*`, in any container."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from bisect import bisect_left
from decimal import Decimal
from pathlib import Path

from pipeline.clip import FetchedClip, FetchOptions
from pipeline.cut_process import cut_apart
from pipeline.failures import Cause, FetchFailure, plain_words
from pipeline.media import start_in_file
from pipeline.segments import Segment

logger = logging.getLogger(__name__)

# What downloaders and people leave beside media.
_SIDECAR = re.compile(
    r"json|csv|tsv|txt|md|log|xml|html?|ya?ml|description|info|part|ytdl|te?mp|vtt|srt|ass|lrc|jpe?g|png|gif|webp|bmp"
    r"|npy|npz|pth?|h5|parquet|zip|tar|gz|md5|sha256"
)
# Where one clip has several files, the one with picture and sound first.
PREFERRED = ("mp4", "mkv", "webm", "mov", "m4v", "avi", "flv", "ts")
_START = re.compile(r"_(\d{1,9}(?:\.\d{1,6})?)(?![\d.]*\d)")


class DirectoryFetcher:
    """Files of one folder, listed once. `fetch` may be called from several threads at once.

    A start in a file's name is in milliseconds (`x_30000.mp4`) or seconds (`x_30.mp4`, `x_30.000_40.000.wav`).

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folder: str | Path, options: FetchOptions) -> None:
        self._folder = Path(folder)
        self._options = options
        try:
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if _is_file(entry)]
        except OSError as error:
            raise ValueError(
                f"expected a folder of media files, got {folder}: {error.strerror}; the source is dir:/path/to/folder"
            ) from error
        self._names = sorted(name for name in names if _is_media(_extension(name)))

    def fetch(self, segment: Segment) -> FetchedClip:
        """The segment's file where it is, or its bytes with `FetchOptions.keep`. Raises FetchFailure."""
        # The name comes out of the listing, never out of the id, so it is a file of this folder.
        name, start_ms = self._find(segment)
        path = self._folder / name
        try:
            if self._options.keep:
                return self._kept(segment, path, start_ms)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except FileNotFoundError as error:
            raise FetchFailure(Cause.GONE, f"{path} is no longer there") from error
        except OSError as error:
            raise FetchFailure(Cause.UNREACHABLE, plain_words(f"{path}: {error.strerror}")) from error
        return FetchedClip(segment, None, str(path), _extension(name), start_ms, digest, size, 0, 0, "dir")

    def close(self) -> None:
        """Nothing to give up."""

    def _find(self, segment: Segment) -> tuple[str, int | None]:
        """A file's name, and where the segment starts in it if the name says that it is the segment's own."""
        for prefix in (segment.ytid, "Y" + segment.ytid):
            own, whole = [], []
            for name in self._beginning_with(prefix):
                rest = name[len(prefix) :].removesuffix("." + name.rpartition(".")[2])
                if names_start(rest, segment.start_ms):
                    own.append(name)
                elif not rest or rest.startswith("."):
                    whole.append(name)
            if own:
                return min(own, key=_rank), 0
            if whole:
                return min(whole, key=_rank), None
        raise FetchFailure(Cause.GONE, f"no file for {segment.key} in {self._folder}")

    def _beginning_with(self, prefix: str) -> list[str]:
        first = last = bisect_left(self._names, prefix)
        while last < len(self._names) and self._names[last].startswith(prefix):
            last += 1
        return self._names[first:last]

    def _kept(self, segment: Segment, path: Path, start_ms: int | None) -> FetchedClip:
        def start(duration_ms: int | None) -> int:
            return start_in_file(duration_ms, segment.start_ms, segment.end_ms) if start_ms is None else start_ms

        with path.open("rb") as file:
            try:
                cut = cut_apart(
                    [file], segment.start_ms, segment.end_ms, max_bytes=self._options.max_bytes, start_in_file=start
                )
                data, extension = cut.data, cut.extension
                media_start_ms: int | None = cut.media_start_ms
            except FetchFailure as failure:
                if failure.cause == Cause.CRASHED:
                    raise
                # Whoever decodes it has the last word: it knows formats that cannot be cut.
                logger.debug("%s is kept whole: %s", path, failure)
                data, extension, media_start_ms = None, _extension(path.name), start_ms
            if data is None:
                file.seek(0)
                data = file.read(self._options.max_bytes + 1)
        if len(data) > self._options.max_bytes:
            limit = f"{self._options.max_bytes / 1e6:g} MB"
            raise FetchFailure(Cause.UNDECODABLE, f"{path} is too large to be kept: more than {limit}")
        digest = hashlib.sha256(data).hexdigest()
        return FetchedClip(segment, data, None, extension, media_start_ms, digest, len(data), 0, 0, "dir")


def names_start(rest: str, start_ms: int) -> bool:
    """Whether what follows the id in a file's name, without its extension, says this start (in ms or s)."""
    match = _START.match(rest)
    if match is None:
        return False
    number = Decimal(match.group(1))
    return number == start_ms or number * 1000 == start_ms


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one; a link that leads nowhere or in a circle is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_media(extension: str) -> bool:
    return extension.isascii() and extension.isalnum() and _SIDECAR.fullmatch(extension) is None


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name.lstrip(".") else ""


def _rank(name: str) -> tuple[int, str]:
    extension = _extension(name)
    return (PREFERRED.index(extension) if extension in PREFERRED else len(PREFERRED), name)
