"""Decoding in processes that can be killed: one clip at a time each, under a time and a memory limit.

A clip whose own process died or ran out of time is tried once more when everything else is done, alone; if that ends
the same way it is `crashed`. Nothing else that dies counts against a clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator

from pipeline.child_process import STARTS_BEFORE_GIVING_UP, ChildUnavailable
from pipeline.decode_process import DecodeJob, DecodeOptions, DecodeProcess, DecodeResult, first_ready


class Decoder:
    """A few decode processes, kept from shard to shard.

    Args:
        processes: how many.
    """

    def __init__(self, options: DecodeOptions, processes: int = 1) -> None:
        self.options = options
        self._processes = [DecodeProcess(options) for _ in range(processes)]

    def decode(self, jobs: Iterable[DecodeJob]) -> Generator[DecodeResult, None, None]:
        """Yields a result for every job, in the order in which they end.

        Raises:
            DecoderError: our own code failed on a clip.
            ChildUnavailable: no process could be started.
        """
        queue = _Queue(iter(jobs))
        failed_starts = 0
        try:
            while self._hand_out(queue):
                queue.prepare()  # the next clip's media are read while the processes decode
                ready = first_ready([process for process in self._processes if process.starting or process.job])
                if ready.starting:
                    failed_starts += not ready.greet()
                    if failed_starts > STARTS_BEFORE_GIVING_UP:
                        raise ChildUnavailable(ready.last_words)
                    continue
                job = ready.job
                assert job is not None
                result = ready.finish()
                if result is None and queue.suspect(job):
                    continue
                self._hand_out(queue)  # before the consumer has its turn: the process need not wait for that
                yield result or DecodeResult(job.index, "crashed", ready.last_words)
        finally:
            # The consumer or the source gave up: what is under way would answer the next shard's jobs.
            for process in self._processes:
                if process.job is not None:
                    process.stop()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.stop()

    def _hand_out(self, queue: _Queue) -> bool:
        """Gives jobs to idle processes and starts those that are down; returns whether anything is left to do."""
        for process in self._processes:
            busy = sum(other.job is not None for other in self._processes)
            if process.idle and (job := queue.take(busy)) is not None and not process.give(job):
                queue.put_back(job)
            if process.down and queue.waiting(busy):
                process.start()
        return any(process.job is not None for process in self._processes) or queue.unfinished


class _Queue:
    """The jobs of a shard: those that come, then those under suspicion, each of these when no other is under way."""

    def __init__(self, source: Iterator[DecodeJob]) -> None:
        self._source = source
        self._next: DecodeJob | None = None
        self._ended = False
        self._suspects: deque[DecodeJob] = deque()
        self._suspected: set[int] = set()

    @property
    def unfinished(self) -> bool:
        """Whether a job is left to be taken."""
        self.prepare()
        return self._next is not None or bool(self._suspects)

    def prepare(self) -> None:
        """Fetches the next job from the source, where there is room for it."""
        if self._next is None and not self._ended:
            self._next = next(self._source, None)
            self._ended = self._next is None

    def waiting(self, busy: int) -> bool:
        """Whether `take` would give a job while `busy` others are under way."""
        self.prepare()
        return self._next is not None or (bool(self._suspects) and busy == 0)

    def take(self, busy: int) -> DecodeJob | None:
        """The job to do next while `busy` others are under way; None when there is none now."""
        if not self.waiting(busy):
            return None
        if self._next is None:
            return self._suspects.popleft()
        job, self._next = self._next, None
        return job

    def put_back(self, job: DecodeJob) -> None:
        """Takes a job back that was not begun."""
        if self._next is None and job.index not in self._suspected:
            self._next = job
        else:
            self._suspects.appendleft(job)

    def suspect(self, job: DecodeJob) -> bool:
        """Notes that a job's process did not survive it; returns whether it is tried again."""
        if job.index in self._suspected:
            return False
        self._suspected.add(job.index)
        self._suspects.append(job)
        return True
