"""The folder that a job leaves its results in: whose it is, and whether the job has ended.

`config.json` says what decides the result, so another job does not fit in; `summary.json` is there when it has ended.
Each is replaced whole, in one atomic step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stores.storage import ABSENT, Conflict, Storage

CONFIG, SUMMARY = "config.json", "summary.json"


class JobFolder:
    """A job's folder.

    Args:
        uri: a directory or any fsspec URI.
        config: the name of the file that says whose it is.
    """

    def __init__(self, uri: str, config: str = CONFIG) -> None:
        self.storage, self._config = Storage(uri), config

    def claim(self, config: Mapping[str, Any]) -> None:
        """Makes the folder this run's, or finds that it is.

        Raises:
            ValueError: another run's, and the message names what differs; or no run's at all.
            StorageError: the folder cannot be read or written.
        """
        text = json.dumps(config, indent=2, sort_keys=True)
        data, _ = self.storage.read_versioned(self._config)
        if data is None:
            # Of two jobs that begin at once the second finds what the first has left, as if it had come later.
            with suppress(Conflict):
                self.storage.publish(self._config, text.encode(), ABSENT)
            data = self.storage.read(self._config)
        there, now = self._parsed(data), json.loads(text)
        differ = sorted(name for name in {*there, *now} if there.get(name) != now.get(name))
        if differ:
            listed = "; ".join(f"{name}: {there.get(name)!r} there, {now.get(name)!r} now" for name in differ)
            raise ValueError(f"{self.storage.uri} holds another run ({listed}): give another --out")

    def _parsed(self, config: bytes) -> dict[str, Any]:
        found = _object_of(config)
        if found is None:
            raise ValueError(f"{self.storage.url(self._config)} is no run's: give another --out")
        return found

    def summary(self) -> dict[str, Any] | None:
        """What an ended run came to; None while it has not ended. Raises ValueError where the file is damaged."""
        data, _ = self.storage.read_versioned(SUMMARY)
        if data is None:
            return None
        found = _object_of(data)
        if found is None:
            raise ValueError(f"{self.storage.url(SUMMARY)} is damaged: remove it, and the same command writes it again")
        return found

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Ends the run."""
        self.storage.publish(SUMMARY, json.dumps(summary, indent=2, sort_keys=True).encode())


def _object_of(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
