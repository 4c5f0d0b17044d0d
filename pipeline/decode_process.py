"""One decode process as its parent sees it: given one clip at a time, killed when it takes too long."""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from pipeline.child_process import STALL_SECONDS, ChildProcess
from pipeline.failures import sayable
from pipeline.media import FrameSpec

_SLOTS = 2  # the child fills one slot of frames while the parent still reads the other


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


class DecodeProcess(ChildProcess):
    """One decode process and the job that it has. It is down, starting, idle or busy.

    Attributes:
        job: what it works on; None unless busy.
    """

    def __init__(self, options: DecodeOptions) -> None:
        super().__init__("decode", "pipeline.decode_child", options.memory_bytes)
        self.options = options
        self.job: DecodeJob | None = None
        self._slot = 0
        self._memory = os.memfd_create("avlens-frames")
        os.ftruncate(self._memory, max(mmap.PAGESIZE, _SLOTS * options.slot_bytes))
        self._frames = np.frombuffer(mmap.mmap(self._memory, 0), np.uint8)

    def __del__(self) -> None:
        os.close(self._memory)

    @property
    def idle(self) -> bool:
        """It is ready for a job."""
        return self._greeted and self.job is None

    def start(self, arguments: Sequence[str] = (), inherited: Sequence[int] = ()) -> None:
        """See `ChildProcess`."""
        logmel = ["--logmel"] if self.options.logmel else []
        super().start(["--frames", str(self._memory), *logmel, *arguments], [self._memory, *inherited])

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
            self.bury(error, self.options.seconds_per_clip)
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
            facts = json.loads(self.hear(0))
            array = self.hear(STALL_SECONDS) if facts.get("array_bytes") else b""
            logmel = np.frombuffer(array, np.float16).reshape(-1, 64) if array else None
        except (EOFError, OSError, ValueError) as error:  # ValueError: not what our code answers
            self.bury(error, self.options.seconds_per_clip)
            return None
        if facts["index"] != job.index:
            raise DecoderError(f"{job.key}: the answer is to another job: {facts}")
        if facts["status"] == "internal":
            raise DecoderError(f"{job.key}: {facts['words']}")
        if facts["status"] != "ok":
            return DecodeResult(job.index, facts["status"], sayable(str(facts["words"])))
        return DecodeResult(job.index, "ok", None, facts, logmel, self._view(facts["frames"]))

    def stop(self) -> None:
        """See `ChildProcess`."""
        self.job = None
        super().stop()

    def _view(self, count: int) -> np.ndarray | None:
        spec = self.options.frames
        if spec is None or count == 0:
            return None
        start = self._slot * self.options.slot_bytes
        used = self._frames[start : start + count * spec.size**2 * 3]
        return used.reshape(count, spec.size, spec.size, 3)


def first_ready(processes: Sequence[DecodeProcess]) -> DecodeProcess:
    """Waits for the first of some starting or busy processes that has spoken, died or run out of time."""
    while True:
        overdue = min(process.deadline for process in processes) - time.monotonic()
        ready = wait([process.connection for process in processes], timeout=max(0.0, overdue))
        for process in processes:
            if process.connection in ready or process.deadline <= time.monotonic():
                return process
