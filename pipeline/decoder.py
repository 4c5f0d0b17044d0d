"""Decoding in processes that can be killed: one clip at a time each, under a time and a memory limit.

A clip whose own process died or ran out of time is tried once more, alone; if that ends the same way it is `crashed`.
Nothing else that dies counts against a clip.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.media import FrameSpec

CRASHES_BEFORE_GIVING_UP = 2
STARTS_BEFORE_GIVING_UP = 5
START_SECONDS = 180.0  # for the process itself (it imports torch), on a machine with every core busy
_SLOTS = 2  # the child fills one slot of frames while the parent still reads the other


class DecoderError(Exception):
    """A bug of ours came up while decoding; the words hold the child's traceback."""


class DecoderUnavailable(Exception):  # noqa: N818 - named like the encoder's twin
    """Decode processes end before they are ready to decode: no clip's fault, so the shard is tried again elsewhere."""


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


class Decoder:
    """A few decode processes, kept from shard to shard.

    Args:
        processes: how many.
    """

    def __init__(self, options: DecodeOptions, processes: int = 1) -> None:
        self.options = options
        self._children = [_Child(options) for _ in range(processes)]

    def decode(self, jobs: Iterable[DecodeJob]) -> Generator[DecodeResult, None, None]:
        """Yields a result for every job, in the order in which they end.

        Raises:
            DecoderError: our own code failed on a clip.
            DecoderUnavailable: no process could be started.
        """
        source = iter(jobs)
        failed_starts = 0
        again: deque[DecodeJob] = deque()
        crashes: dict[int, int] = {}
        busy: list[_Child] = []
        try:
            for child in self._children:
                if child.start(next(source, None)):
                    busy.append(child)
            while busy:
                ended = _first_to_end(busy)
                job, greeted = ended.job, ended.greeted
                assert job is not None
                result = ended.finish()
                if not greeted:
                    failed_starts += 1
                    if failed_starts > STARTS_BEFORE_GIVING_UP:
                        raise DecoderUnavailable(ended.last_words)
                    again.append(job)
                elif result is None:
                    crashes[job.index] = crashes.get(job.index, 0) + 1
                    if crashes[job.index] < CRASHES_BEFORE_GIVING_UP:
                        again.append(job)
                    else:
                        result = DecodeResult(job.index, "crashed", ended.last_words)
                if not ended.start(again.popleft() if again else next(source, None)):
                    busy.remove(ended)
                if result is not None:
                    yield result
        finally:
            # The consumer or the source gave up: what is under way would answer the next shard's jobs.
            for child in self._children:
                if child.job is not None:
                    child.stop()

    def close(self) -> None:
        """Ends the processes."""
        for child in self._children:
            child.stop()


def _first_to_end(busy: list[_Child]) -> _Child:
    """Waits for the first child that has answered, died or run out of time."""
    while True:
        overdue = min(child.deadline for child in busy) - time.monotonic()
        ready = wait([child.connection for child in busy], timeout=max(0.0, overdue))
        for child in busy:
            if child.connection in ready and child.greets():
                continue
            if child.connection in ready or child.deadline <= time.monotonic():
                return child


class _Child:
    """One decode process and the job that it has."""

    def __init__(self, options: DecodeOptions) -> None:
        self.options = options
        self.greeted = False
        self.job: DecodeJob | None = None
        self.deadline = 0.0
        self.last_words = ""
        self._slot = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._memory = os.memfd_create("avlens-frames")
        os.ftruncate(self._memory, max(mmap.PAGESIZE, _SLOTS * options.slot_bytes))
        self._frames = np.frombuffer(mmap.mmap(self._memory, 0), np.uint8)

    @property
    def connection(self) -> Connection:
        return self._connection

    def start(self, job: DecodeJob | None) -> bool:
        """Sends a job, if there is one; starts the process where none is running."""
        self.job = job
        if job is None:
            return False
        if self._process is None:
            self._spawn()
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
        self.deadline = time.monotonic() + (options.seconds_per_clip if self.greeted else START_SECONDS)
        try:
            self._connection.send_bytes(json.dumps(header).encode())
            if isinstance(job.media, bytes):
                self._connection.send_bytes(job.media)
        except OSError:
            self.deadline = 0.0  # it died between two clips; `finish` sees that and the clip is tried again
        return True

    def greets(self) -> bool:
        """Whether what is there to read is a new process's greeting; its clip's time runs from then on."""
        if self.greeted:
            return False
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError):
            self.deadline = 0.0
            return False
        self.greeted = True
        self.deadline = time.monotonic() + self.options.seconds_per_clip
        return True

    def finish(self) -> DecodeResult | None:
        """The answer to the job, None when the process died or ran out of time over it.

        Raises:
            DecoderError: our own code failed.
        """
        assert self.job is not None
        job, self.job = self.job, None
        try:
            if not self._connection.poll(0):
                raise TimeoutError
            facts = json.loads(self._connection.recv_bytes())
            array = self._connection.recv_bytes() if facts.get("array_bytes") else b""
        except (EOFError, OSError) as error:
            self._bury(timed_out=isinstance(error, TimeoutError))
            return None
        if facts["index"] != job.index:
            raise DecoderError(f"{job.key}: the answer is to another job: {facts}")
        if facts["status"] == "internal":
            raise DecoderError(f"{job.key}: {facts['words']}")
        if facts["status"] != "ok":
            return DecodeResult(job.index, facts["status"], facts["words"])
        logmel = np.frombuffer(array, np.float16).reshape(-1, 64) if array else None
        return DecodeResult(job.index, "ok", None, facts, logmel, self._view(facts["frames"]))

    def stop(self) -> None:
        """Ends the process at once."""
        self.job = None
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None
            self.greeted = False

    def _view(self, count: int) -> np.ndarray | None:
        spec = self.options.frames
        if spec is None or count == 0:
            return None
        start = self._slot * self.options.slot_bytes
        used = self._frames[start : start + count * spec.size**2 * 3]
        return used.reshape(count, spec.size, spec.size, 3)

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "pipeline.decode_child"]
        command += ["--socket", str(theirs.fileno()), "--frames", str(self._memory), "--parent", str(os.getpid())]
        command += ["--data-limit", str(self.options.memory_bytes)]
        command += ["--logmel"] if self.options.logmel else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs.fileno(), self._memory), stdin=subprocess.DEVNULL, env=environment
            )
        self._connection = Connection(ours.detach())

    def _bury(self, timed_out: bool) -> None:
        """Makes sure that the process is gone and keeps why as the clip's last words."""
        process = self._process
        assert process is not None
        if timed_out:
            self.last_words = f"decoding took more than {self.options.seconds_per_clip:g} s"
            process.kill()
            process.wait()
        else:
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            self.last_words = f"the decode process ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
        self.stop()


def _python_path() -> str:
    """Where this very copy of the project lies first: a job's working directory is a copy of its own."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
