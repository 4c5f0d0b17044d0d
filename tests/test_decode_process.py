"""One decode process from its parent's side: what it says is not trusted, and nothing is waited for for ever."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from media_factory import Audio, Video, write_media
from other_children import GREETS, run_instead

from pipeline import child_process
from pipeline.decode_process import DecodeJob, DecodeOptions, DecodeProcess, first_ready
from pipeline.media import FrameSpec


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> DecodeJob:
    path = write_media(tmp_path_factory.mktemp("clip") / "a.mp4", Video(fps=10), Audio())
    return DecodeJob(0, "a_0", path.read_bytes(), 0, 0, 10_000)


@pytest.fixture
def process() -> Iterator[DecodeProcess]:
    process = DecodeProcess(DecodeOptions(16_000, None))
    yield process
    process.stop()


def ready(process: DecodeProcess) -> DecodeProcess:
    process.start()
    assert process.starting
    assert first_ready([process]) is process
    assert process.greet()
    return process


def speaking(process: DecodeProcess, monkeypatch: pytest.MonkeyPatch, words: str) -> DecodeProcess:
    """The process with another program in it: greets, then runs `words` with `connection` once it has a job."""
    run_instead(monkeypatch, GREETS + "connection.recv_bytes(); connection.recv_bytes()\n" + words)
    return ready(process)


def test_down_starting_idle_busy_and_idle_again(process: DecodeProcess, job: DecodeJob) -> None:
    assert process.down
    ready(process)
    assert process.idle
    assert process.give(job)
    assert not process.idle
    assert first_ready([process]) is process
    result = process.finish()
    assert result is not None
    assert result.status == "ok"
    assert process.idle


def test_a_process_that_died_between_two_clips_costs_no_clip(process: DecodeProcess, job: DecodeJob) -> None:
    ready(process)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait()
    assert not process.give(job)
    assert process.down
    assert "signal 9" in process.last_words


@pytest.mark.parametrize(
    "words",
    [
        "connection.send_bytes(b'{not json')",
        "connection.send_bytes(b'[1, 2]' * 300_000)",  # longer than any answer
        "connection.send_bytes(json.dumps(dict(index=0, status='ok', array_bytes=9)).encode())\n"
        "connection.send_bytes(b'123456789'); time.sleep(60)",  # no whole number of rows
    ],
)
def test_an_answer_that_our_code_does_not_give_ends_the_process(
    process: DecodeProcess, job: DecodeJob, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    speaking(process, monkeypatch, words + "\ntime.sleep(60)")
    assert process.give(job)
    first_ready([process])
    began = time.monotonic()
    assert process.finish() is None
    assert process.down
    assert time.monotonic() - began < 30


def test_half_a_message_is_not_waited_for(
    process: DecodeProcess, job: DecodeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "STALL_SECONDS", 1)
    speaking(process, monkeypatch, "import os; os.write(connection.fileno(), b'\\0\\0\\1\\0half'); time.sleep(60)")
    assert process.give(job)
    first_ready([process])
    began = time.monotonic()
    assert process.finish() is None
    assert time.monotonic() - began < 20
    assert process.down


def test_media_that_nobody_reads_are_not_pushed_for_ever(
    process: DecodeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_process, "STALL_SECONDS", 1)
    ready(process)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGSTOP)
    assert not process.give(DecodeJob(0, "a_0", bytes(8 << 20), 0, 0, 10_000))
    assert process.down


def test_first_ready_is_the_one_that_spoke(job: DecodeJob) -> None:
    silent, speaks = DecodeProcess(DecodeOptions(16_000, None)), DecodeProcess(DecodeOptions(16_000, None))
    ours, theirs = socket.socketpair()
    try:
        ready(speaks)
        silent.connection, silent.deadline = Connection(ours.detach()), time.monotonic() + 60
        assert speaks.give(job)
        assert first_ready([silent, speaks]) is speaks
        silent.deadline = 0.0
        assert first_ready([silent]) is silent
    finally:
        theirs.close()
        silent.connection.close()
        speaks.stop()


def test_shared_memory_is_given_back() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(5):
        DecodeProcess(DecodeOptions(None, FrameSpec(fps=10, size=64), 100)).stop()
    assert open_files() <= before
