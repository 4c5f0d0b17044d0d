"""The process that cuts strangers' media: FFmpeg reads containers here, and what it reads comes from the parent.

It is started by `pipeline.cut_process` as `python -m pipeline.cut_child`, opens nothing by itself, and may be killed.
"""

from __future__ import annotations

import io
import json
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from pipeline.child_limits import child_parser, die_with, limit_data
from pipeline.cut import cut_segment
from pipeline.failures import FetchFailure


def main() -> None:
    """Serves jobs until the parent closes the socket."""
    arguments = child_parser(__doc__).parse_args()
    die_with(arguments.parent)
    with Connection(arguments.socket) as connection:
        limit_data(arguments.data_limit)
        connection.send_bytes(b"ready")
        serve(connection)


def serve(connection: Connection) -> None:
    """Answers jobs (JSON: arguments of `cut_segment`, `files` being their number) with what it returned or raised.

    On the way it asks: `{"read": [file, position, length]}`, answered by bytes; `{"size": file}` and
    `{"starts": duration_ms}`, answered by JSON.
    """
    while True:
        try:
            job = json.loads(connection.recv_bytes())
        except EOFError:
            return
        reply, data = _work(connection, job)
        connection.send_bytes(json.dumps(reply).encode())
        if data is not None:
            connection.send_bytes(data)


def _work(connection: Connection, job: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
    def starts(duration_ms: int | None) -> int:
        connection.send_bytes(json.dumps({"starts": duration_ms}).encode())
        return int(connection.recv_bytes())

    files = [_AskedFor(connection, number) for number in range(job["files"])]
    start_in_file = starts if job["asks_start"] else None
    # Whatever one file brings up is an answer about that file, not the end of the process.
    try:
        cut = cut_segment(
            files, job["start_ms"], job["end_ms"], max_bytes=job["max_bytes"], start_in_file=start_in_file
        )
    except FetchFailure as failure:
        return {"undecodable": failure.words}, None
    except MemoryError:
        raise  # beyond its limit: the process goes, and the parent counts that against the clip
    except Exception:  # noqa: BLE001
        return {"internal": traceback.format_exc()}, None
    return {"extension": cut.extension, "media_start_ms": cut.media_start_ms, "cut": cut.data is not None}, cut.data


class _AskedFor(io.RawIOBase):
    """A file of the parent's, as FFmpeg reads it."""

    def __init__(self, connection: Connection, number: int) -> None:
        super().__init__()
        self._connection, self._number, self._position = connection, number, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        if base is None:
            base = int(self._ask({"size": self._number}))
        if base + offset < 0:
            raise ValueError(f"expected a position inside the file, got {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._ask({"read": [self._number, self._position, len(view)]})
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _ask(self, question: dict[str, int | Sequence[int]]) -> bytes:
        self._connection.send_bytes(json.dumps(question).encode())
        return self._connection.recv_bytes()


if __name__ == "__main__":
    main()
