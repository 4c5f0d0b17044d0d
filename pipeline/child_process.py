"""A process of our own that touches strangers' media, as its parent sees it: started, greeted, heard, and killed.

What it says is read as a stranger's words: JSON and raw bytes of limited length, and nothing is waited for for ever.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

START_SECONDS = 180.0  # for the process itself (it may import torch), on a machine with every core busy
STALL_SECONDS = 20  # of one read or write in the middle of a message
STARTS_BEFORE_GIVING_UP = 5
LONGEST_MESSAGE = 1 << 20

# Linux ends a process that asked to die with its parent when the THREAD that started it ends. Threads that fetch end
# with their shard; this one ends with the process.
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="starts-children")


class ChildUnavailable(Exception):  # noqa: N818 - named like the encoder's twin
    """Processes end before they are ready to work: no clip's fault, so the shard is tried again elsewhere."""


class ChildProcess:
    """One such process, running or not.

    Args:
        name: what its last words call it.
        module: what it runs; see `pipeline.child_limits` for how that begins.
        memory_bytes: private memory that it may take beyond its own.

    Attributes:
        connection: to it, while it runs.
        deadline: monotonic time by which it must have greeted or answered.
        last_words: how its last process ended.
    """

    def __init__(self, name: str, module: str, memory_bytes: int) -> None:
        self._name, self._module, self._memory_bytes = name, module, memory_bytes
        self.connection: Connection
        self.last_words = ""
        self.deadline = 0.0
        self._greeted = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def down(self) -> bool:
        """No process is running."""
        return self._process is None

    @property
    def starting(self) -> bool:
        """It runs and is not ready yet."""
        return self._process is not None and not self._greeted

    def start(self, arguments: Sequence[str] = (), inherited: Sequence[int] = ()) -> None:
        """Starts the process; it is ready when `greet` says so.

        Args:
            arguments: beside those that every such process has.
            inherited: file descriptors that it shares.

        Raises:
            ChildUnavailable: it cannot be started at all.
        """
        ours, theirs = socket.socketpair()
        limit = struct.pack("ll", STALL_SECONDS, 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        command = [sys.executable, "-m", self._module, "--socket", str(theirs.fileno()), "--parent", str(os.getpid())]
        command += ["--data-limit", str(self._memory_bytes), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
        descriptors = (theirs.fileno(), *inherited)
        with theirs:
            try:
                self._process = _STARTER.submit(
                    subprocess.Popen, command, pass_fds=descriptors, stdin=subprocess.DEVNULL, env=environment
                ).result()
            except OSError as error:  # no memory, no interpreter: whatever it is, it is not the media's
                ours.close()
                raise ChildUnavailable(f"no {self._name} process can be started: {error}") from error
        self.connection = Connection(ours.detach())
        self._greeted = False
        self.deadline = time.monotonic() + START_SECONDS

    def greet(self, seconds: float = 0.0) -> bool:
        """Reads a starting process's greeting, which is waited for for so long; False when it ended, or took too long,
        before it was ready."""
        try:
            self.hear(seconds)
        except (EOFError, OSError) as error:
            self.bury(error, START_SECONDS)
            return False
        self._greeted = True
        return True

    def hear(self, seconds: float, longest: int = LONGEST_MESSAGE) -> bytes:
        """The next message. Raises TimeoutError when none comes in time, EOFError or OSError when none will."""
        if not self.connection.poll(max(0.0, seconds)):
            raise TimeoutError
        return self.connection.recv_bytes(longest)

    def stop(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self.connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None
            self._greeted = False

    def bury(self, error: Exception, limit: float) -> None:
        """Makes sure that the process is gone and keeps why as its last words; `limit` in seconds is what it had."""
        process = self._process
        assert process is not None
        if isinstance(error, TimeoutError):
            self.last_words = f"the {self._name} process took more than {limit:g} s"
        elif isinstance(error, EOFError | ConnectionError):  # it has closed its end: it is about to be gone
            try:
                code = process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self.last_words = f"the {self._name} process ended with {how}"
        else:
            self.last_words = f"the {self._name} process stopped making sense: {type(error).__name__}: {error}"
        self.stop()


def _python_path() -> str:
    """Where this very copy of the project lies first: a job's working directory is a copy of its own."""
    root = str(Path(__file__).resolve().parents[1])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
