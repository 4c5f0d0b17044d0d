"""One decode process as its parent sees it: started, greeted, given one clip at a time, killed when it takes too long.

What it answers is read as a stranger's words: JSON and raw bytes of limited length, and nothing is waited for for ever.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media import FrameSpec

START_SECONDS = 180.0  # for the process itself (it imports torch), on a machine with every core busy
STALL_SECONDS = 20  # of one read or write in the middle of a message
_SLOTS = 2  # the child fills one slot of frames while the parent still reads the other
_LONGEST_MESSAGE = 1 << 20


class DecoderError(Exception):
    """A bug of ours came up while decoding; the words hold the child's traceback."""


@dataclass(frozen=True)
class DecodeOptions:
    """What every clip of a shard is decoded to, and what a clip may cost.

    Attributes:
        sample_rate: Hz of the mono sound; None where no column needs sound.
        frames: None where no column needs pictures.
        frame_count: frames of a whole clip on the grid.
        logmel: whether the child computes the log-mel.
        seconds_per_clip: time limit; beyond it the child is killed.
        memory_bytes: private memory a clip may take beyond the child's own.
    """

    sample_rate: int | None
    frames: FrameSpec | None
    frame_count: int = 0
    logmel: bool = False
    seconds_per_clip: float = 120.0
    memory_bytes: int = 3 << 30

    @property
    def slot_bytes(self) -> int:
        """Bytes of one clip's frames."""
        return 0 if self.frames is None else self.frame_count * self.frames.size**2 * 3


@dataclass(frozen=True)
class DecodeJob:
    """One clip: its media (bytes, or a file's path) and where the segment lies in it."""

    index: int
    key: str
    media: bytes | str
    start_ms: int | None
    segment_start_ms: int
    segment_end_ms: int


@dataclass(frozen=True)
class DecodeResult:
    """What became of a job.

    Attributes:
        status: ok, undecodable or crashed; words say why.
        facts: flags, decoded milliseconds and stage seconds of an ok clip (see `pipeline.decode_child`).
        logmel: float16 [400, 64]; None without sound or where not asked for.
        frames: uint8 [M, size, size, 3], a view that is valid until the next result is asked for; None without.
    """

    index: int
    status: str
    words: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    logmel: np.ndarray | None = None
    frames: np.ndarray | None = None


class DecodeProcess:
    """One decode process and the job that it has. It is down, starting, idle or busy.

    Attributes:
        job: what it works on; None unless busy.
        deadline: monotonic time by which it must have greeted or answered.
        last_words: how its last process ended.
    """

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self.job: DecodeJob | None = None
        self.last_words = ""
        self._greeted = False
        self.deadline = 0.0
        self._slot = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = os.memfd_create("avlens-frames")
        os.ftruncate(self._memory, max(mmap.PAGESIZE, _SLOTS * options.slot_bytes))
        self._frames = np.frombuffer(mmap.mmap(self._memory, 0), np.uint8)

    def __del__(self) -> None:
        os.close(self._memory)

    @property
    def down(self) -> bool:
        """No process is running."""
        return self._process is None

    @property
    def starting(self) -> bool:
        """It runs and is not ready yet."""
        return self._process is not None and not self._greeted

    @property
    def idle(self) -> bool:
        """It is ready for a job."""
        return self._greeted and self.job is None

    def start(self) -> None:
        """Starts the process; it is ready when `greet` says so."""
        ours, theirs = socket.socketpair()
        limit = struct.pack("ll", STALL_SECONDS, 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        command = [sys.executable, "-m", "pipeline.decode_child"]
        command += ["--socket", str(theirs.fileno()), "--frames", str(self._memory), "--parent", str(os.getpid())]
        command += ["--data-limit", str(self.options.memory_bytes)]
        command += ["--logmel"] if self.options.logmel else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), self._memory), stdin=subprocess.DEVNULL, env=environment
            )
        self.connection = Connection(ours.detach())
        self._greeted = False
        self.deadline = time.monotonic() + START_SECONDS

    def greet(self) -> bool:
        """Reads a starting process's greeting; False when it ended, or took too long, before it was ready."""
        try:
            if not self.connection.poll(0):
                raise TimeoutError
            self.connection.recv_bytes(_LONGEST_MESSAGE)
        except (EOFError, OSError) as error:
            self._bury(error, START_SECONDS)
            return False
        self._greeted = True
        return True

    def give(self, job: DecodeJob) -> bool:
        """Sends a job; False when the idle process turns out to have ended, which is no fault of the job's."""
        self._slot = (self._slot + 1) % _SLOTS
        options = self.options
        header = {
            "index": job.index,
            "path": job.media if isinstance(job.media, str) else None,
            "start_ms": job.start_ms,
            "segment_start_ms": job.segment_start_ms,
            "segment_end_ms": job.segment_end_ms,
            "sample_rate": options.sample_rate,
            "frames": None if options.frames is None else asdict(options.frames),
            "frame_count": options.frame_count,
            "slot": self._slot,
        }
        self.deadline = time.monotonic() + options.seconds_per_clip
        try:
            self.connection.send_bytes(json.dumps(header).encode())
            if isinstance(job.media, bytes):
                self.connection.send_bytes(job.media)
        except OSError as error:
            self._bury(error, self.options.seconds_per_clip)
            return False
        self.job = job
        return True

    def finish(self) -> DecodeResult | None:
        """The answer to the job; None when the process died or ran out of time over it.

        Raises:
            DecoderError: our own code failed.
        """
        assert self.job is not None
        job, self.job = self.job, None
        try:
            if not self.connection.poll(0):
                raise TimeoutError
            facts = json.loads(self.connection.recv_bytes(_LONGEST_MESSAGE))
            array = self.connection.recv_bytes(_LONGEST_MESSAGE) if facts.get("array_bytes") else b""
            logmel = np.frombuffer(array, np.float16).reshape(-1, 64) if array else None
        except (EOFError, OSError, ValueError) as error:  # ValueError: not what our code answers
            self._bury(error, self.options.seconds_per_clip)
            return None
        if facts["index"] != job.index:
            raise DecoderError(f"{job.key}: the answer is to another job: {facts}")
        if facts["status"] == "internal":
            raise DecoderError(f"{job.key}: {facts['words']}")
        if facts["status"] != "ok":
            return DecodeResult(job.index, facts["status"], facts["words"])
        return DecodeResult(job.index, "ok", None, facts, logmel, self._view(facts["frames"]))

    def stop(self) -> None:
        """Ends the process at once."""
        self.job = None
        if self._process is not None:
            self.connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None
            self._greeted = False

    def _view(self, count: int) -> np.ndarray | None:
        spec = self.options.frames
        if spec is None or count == 0:
            return None
        start = self._slot * self.options.slot_bytes
        used = self._frames[start : start + count * spec.size**2 * 3]
        return used.reshape(count, spec.size, spec.size, 3)

    def _bury(self, error: Exception, limit: float) -> None:
        """Makes sure that the process is gone and keeps why as its last words; `limit` in seconds is what it had."""
        process = self._process
        assert process is not None
        if isinstance(error, TimeoutError):
            self.last_words = f"decoding took more than {limit:g} s"
        elif isinstance(error, EOFError | ConnectionError):  # it has closed its end: it is about to be gone
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            self.last_words = f"the decode process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        else:
            self.last_words = f"the decode process stopped making sense: {type(error).__name__}: {error}"
        self.stop()


def first_ready(processes: Sequence[DecodeProcess]) -> DecodeProcess:
    """Waits for the first of some starting or busy processes that has spoken, died or run out of time."""
    while True:
        overdue = min(process.deadline for process in processes) - time.monotonic()
        ready = wait([process.connection for process in processes], timeout=max(0.0, overdue))
        for process in processes:
            if process.connection in ready or process.deadline <= time.monotonic():
                return process


def _python_path() -> str:
    """Where this very copy of the project lies first: a job's working directory is a copy of its own."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
