"""The process that cuts strangers' media: FFmpeg reads containers here, and what it reads comes from the parent.

It is started by `pipeline.cut_process` as `python -m pipeline.cut_child`, opens nothing by itself, and may be killed.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from pipeline.child_limits import child_parser, die_with, limit_data
from pipeline.cut import LONGEST_READ, cut_segment
from pipeline.failures import FetchFailure
from pipeline.seekable import SeekableReader


def main() -> None:
    """Serves jobs until the parent closes the socket."""
    arguments = child_parser(__doc__).parse_args()
    die_with(arguments.parent)
    with Connection(arguments.socket) as connection, suppress(EOFError, ConnectionError):  # it hung up on this clip
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
    except ArithmeticError as error:
        return {"undecodable": f"its numbers are beyond any media's: {type(error).__name__}: {error}"}, None
    except Exception:  # noqa: BLE001
        return {"internal": traceback.format_exc()}, None
    return {"extension": cut.extension, "media_start_ms": cut.media_start_ms, "cut": cut.data is not None}, cut.data


class _AskedFor(SeekableReader):
    """A file of the parent's, as FFmpeg reads it."""

    def __init__(self, connection: Connection, number: int) -> None:
        super().__init__()
        self._connection, self._number = connection, number

    def read_at(self, position: int, length: int) -> bytes:
        return self._ask({"read": [self._number, position, min(length, LONGEST_READ)]})

    def end(self) -> int:
        return int(self._ask({"size": self._number}))

    def _ask(self, question: dict[str, int | Sequence[int]]) -> bytes:
        self._connection.send_bytes(json.dumps(question).encode())
        return self._connection.recv_bytes()


if __name__ == "__main__":
    main()
