"""A process of ours from its parent's side: what it says is not trusted, and nothing is waited for for ever."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from other_children import GREETS, run_instead

from pipeline import child_process
from pipeline.child_process import ChildProcess


@pytest.fixture
def process() -> Iterator[ChildProcess]:
    """Runs the program that `run_instead` sets."""
    process = ChildProcess("test", "nothing", 1 << 30)
    yield process
    process.stop()


def ready(process: ChildProcess) -> ChildProcess:
    process.start(["--more", "words"])
    assert process.starting and not process.down
    assert process.connection.poll(60)
    assert process.greet() and not process.starting
    return process


def test_down_starting_ready_and_down_again(process: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, GREETS + "connection.send_bytes(' '.join(sys.argv[1:]).encode()); time.sleep(60)")
    assert process.down
    words = ready(process).hear(30).decode()
    assert f"--parent {os.getpid()} --data-limit {1 << 30} --more words" in words
    process.stop()
    assert process.down
    process.stop()  # again is no error


def test_one_that_never_gets_ready_is_ended(process: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "import time; time.sleep(60)")
    process.start()
    assert not process.greet()
    assert process.down and "the test process took more than 180 s" in process.last_words


@pytest.mark.parametrize(
    ("program", "words"),
    [("os.kill(os.getpid(), 9)", "ended with signal 9"), ("sys.exit(7)", "ended with exit code 7")],
)
def test_how_it_ended_is_told(process: ChildProcess, monkeypatch: pytest.MonkeyPatch, program: str, words: str) -> None:
    run_instead(monkeypatch, GREETS + program)
    ready(process)
    with pytest.raises((EOFError, ConnectionError)) as raised:
        process.hear(30)
    process.bury(raised.value, 30)
    assert process.last_words == f"the test process {words}" and process.down


def test_silence_is_a_timeout_and_half_a_message_is_not_waited_for(
    process: ChildProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "STALL_SECONDS", 1)
    run_instead(
        monkeypatch, GREETS + "time.sleep(1); os.write(connection.fileno(), b'\\0\\0\\1\\0half'); time.sleep(60)"
    )
    ready(process)
    with pytest.raises(TimeoutError):
        process.hear(0.1)
    began = time.monotonic()
    with pytest.raises(OSError):
        process.hear(30)
    assert time.monotonic() - began < 20


def test_longer_than_a_message_may_be_is_an_error(process: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, GREETS + "connection.send_bytes(bytes(5000)); time.sleep(60)")
    with pytest.raises(OSError):
        ready(process).hear(30, 4999)


def test_what_nobody_reads_is_not_pushed_for_ever(process: ChildProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "STALL_SECONDS", 1)
    run_instead(monkeypatch, GREETS + "time.sleep(60)")
    ready(process)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGSTOP)
    with pytest.raises(OSError):
        process.connection.send_bytes(bytes(8 << 20))
