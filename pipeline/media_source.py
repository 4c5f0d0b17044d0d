"""Where a fetched clip's media are read from for a column: a media tar, the spool, or the source's folder."""

from __future__ import annotations

import hashlib

from pipeline.clip import Fetcher
from pipeline.failures import FetchFailure
from pipeline.segments import Segment
from stores.layout import Store
from stores.ledger import LedgerRow, read_media
from stores.spool import Spool
from stores.storage import StorageError


class MediaGone(Exception):  # noqa: N818 - a fact about the store
    """A clip's media are neither in the store nor at hand: its column can be supplemented but not rebuilt."""


class MediaSource:
    """The media of one shard's fetched clips.

    Args:
        files: the fetcher of a folder of files, for clips that stay where they are; None where the source is another.
    """

    def __init__(self, store: Store, split: str, shard: int, files: Fetcher | None) -> None:
        self.store = store
        self.split = split
        self.spool = Spool(store, split, shard)
        self.files = files
        self._spooled = self.spool.positions()

    def load(self, row: LedgerRow, segment: Segment) -> bytes | str:
        """A clip's bytes, or the path of its file.

        Raises:
            StorageError: the bytes are not those that the ledger names, or cannot be read.
            MediaGone: they were not kept.
        """
        if row.tar is not None:
            try:
                return read_media(self.store, self.split, row)
            except FileNotFoundError as error:
                name = f"{self.store.media_folder(self.split)}/{row.tar}"
                raise MediaGone(f"{name} is missing, and its ledger names it: restore it") from error
        if row.position in self._spooled:
            return _checked(self.spool.media(row.position), row, self.spool.folder)
        if row.origin == "dir" and self.files is not None:
            return self._file(row, segment)
        raise MediaGone(
            f"{row.key}: its media were not kept ({row.origin}); name its --source dir:… again, or fetch it anew into "
            "another store with --media keep"
        )

    def _file(self, row: LedgerRow, segment: Segment) -> str:
        assert self.files is not None
        try:
            clip = self.files.fetch(segment)
        except FetchFailure as failure:
            raise MediaGone(f"{row.key}: {failure.words}") from failure
        if clip.sha256 != row.media_sha256 or clip.path is None:
            raise MediaGone(
                f"{row.key}: {clip.path} is not the file that the ledger names: restore it, or use a new store"
            )
        return clip.path


def _checked(data: bytes, row: LedgerRow, where: str) -> bytes:
    if hashlib.sha256(data).hexdigest() != row.media_sha256:
        raise StorageError(f"{where}: the bytes of {row.key} are not those that its ledger names")
    return data
