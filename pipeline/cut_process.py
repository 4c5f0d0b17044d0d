"""Cutting in processes that can be killed: FFmpeg reads strangers' containers there, and only there.

A container may take its reader down, or keep it for ever, long before anything is decoded. In a Ray worker that would
be the end of the worker, and of each one that repeats its task. The bytes still come by the parent, which holds
connections, budgets and deadlines: the process asks for what it reads.
"""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from pipeline.child_process import (
    LONGEST_MESSAGE,
    START_SECONDS,
    STARTS_BEFORE_GIVING_UP,
    ChildProcess,
    ChildUnavailable,
)
from pipeline.cut import LONGEST_READ, Cut, StartInFile
from pipeline.failures import Cause, FetchFailure, plain_words
from pipeline.pool import Pool

CUT_SECONDS = 60.0  # of the process's own time for a clip; what it waits for the network is not counted
MEMORY_BYTES = 2 << 30
LONGEST_START_MS = (1 << 31) - 1  # what a ledger holds
# What comes of an answer that does not come, or that our code does not give.
NONSENSE = (EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class CutError(Exception):
    """A bug of ours came up while cutting; the words hold the child's traceback."""


class CutProcess(ChildProcess):
    """One process that cuts one clip at a time; it is started when it is needed, and again when it has ended."""

    def __init__(self) -> None:
        super().__init__("cut", "pipeline.cut_child", MEMORY_BYTES)

    def cut(
        self, files: Sequence[Any], start_ms: int, end_ms: int, max_bytes: int, start_in_file: StartInFile | None
    ) -> Cut:
        """See `cut_apart`."""
        job = {"files": len(files), "start_ms": start_ms, "end_ms": end_ms, "max_bytes": max_bytes}
        self._begin({**job, "asks_start": start_in_file is not None})
        ended = False
        try:
            found = self._serve(files, max_bytes, start_in_file)
            ended = True
        finally:
            if not ended:  # it waits for something that will not come, or is not there any more
                self.stop()
        if isinstance(found, FetchFailure):
            raise found
        return found

    def _begin(self, job: dict[str, Any]) -> None:
        """Sends a job to a process that is ready for it."""
        for _ in range(STARTS_BEFORE_GIVING_UP):
            if self.down:
                self.start()
                if not self.greet(START_SECONDS):
                    continue
            try:
                self.connection.send_bytes(json.dumps(job).encode())
                return
            except OSError as error:  # it ended while nobody needed it
                self.bury(error, 0)
        raise ChildUnavailable(self.last_words)

    def _serve(self, files: Sequence[Any], max_bytes: int, start_in_file: StartInFile | None) -> Cut | FetchFailure:
        """Answers what the process asks until it has an answer itself."""
        left_s = CUT_SECONDS
        while True:
            began = time.monotonic()
            try:
                message = json.loads(self.hear(left_s))
                data = self.hear(left_s, max_bytes + LONGEST_MESSAGE) if message.get("cut") else None
                left_s -= time.monotonic() - began
                if "extension" in message:
                    return _cut(message, data)
                if "undecodable" in message:
                    return FetchFailure(Cause.UNDECODABLE, plain_words(message["undecodable"]))
                if "internal" not in message:
                    question = _Question(message, files)
            except NONSENSE as error:
                self.bury(error, CUT_SECONDS)
                return FetchFailure(Cause.CRASHED, self.last_words)
            if "internal" in message:
                raise CutError(message["internal"])
            answer = question.answer(start_in_file)
            try:
                self.connection.send_bytes(answer)
            except OSError as error:
                self.bury(error, CUT_SECONDS)
                return FetchFailure(Cause.CRASHED, self.last_words)


def _cut(message: dict[str, Any], data: bytes | None) -> Cut | FetchFailure:
    """What a process says that it cut. Raises ValueError, LookupError or TypeError for what our code does not say."""
    extension, start_ms = str(message["extension"]), int(message["media_start_ms"])
    if not re.fullmatch(r"[a-z0-9_]{1,16}", extension):
        raise ValueError(f"cut a {extension[:30]!r}")
    if abs(start_ms) > LONGEST_START_MS:
        return FetchFailure(Cause.UNDECODABLE, f"its segment starts at {start_ms} ms, which is beyond any media")
    return Cut(data, extension, start_ms)


class _Question:
    """What the process may ask. Raises ValueError, LookupError or TypeError for anything else."""

    def __init__(self, message: dict[str, Any], files: Sequence[Any]) -> None:
        ((self._kind, value),) = message.items()
        self._file: Any = None
        self._position, self._length, self._duration_ms = 0, 0, None
        if self._kind == "read":
            number, self._position, self._length = map(int, value)
            if self._position < 0 or not 0 <= self._length <= LONGEST_READ:
                raise ValueError(f"asked for {value}")
            self._file = files[abs(number)]
        elif self._kind == "size":
            self._file = files[abs(int(value))]
        elif self._kind == "starts":
            self._duration_ms = None if value is None else int(value)
        else:
            raise ValueError(f"asked for {self._kind!r}")

    def answer(self, start_in_file: StartInFile | None) -> bytes:
        """Whatever reading raises comes through."""
        if self._kind == "starts":
            return b"%d" % (start_in_file(self._duration_ms) if start_in_file is not None else 0)
        if self._kind == "size":
            return b"%d" % self._file.seek(0, io.SEEK_END)
        self._file.seek(self._position)
        return bytes(self._file.read(self._length) or b"")


# Kept from clip to clip and from shard to shard, as many as threads have cut at once: starting one takes a while.
_PROCESSES: Pool[CutProcess] = Pool(CutProcess, CutProcess.stop)


def cut_apart(
    files: Sequence[Any], start_ms: int, end_ms: int, *, max_bytes: int, start_in_file: StartInFile | None = None
) -> Cut:
    """`pipeline.cut.cut_segment` in a process of its own, which may have as much memory and time as a clip may take.

    May be called from several threads at once.

    Args:
        files: as there; they are read by this process.

    Raises:
        FetchFailure: as there; `crashed`: the process did not survive it, or took too long.
        CutError: our own code failed.
        ChildUnavailable: no process could be started.
        Exception: whatever reading the files raises.
    """
    with _PROCESSES.borrow() as process:
        return process.cut(files, start_ms, end_ms, max_bytes, start_in_file)
