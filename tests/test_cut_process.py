"""Cutting apart gives what cutting here gives; what ends or stalls the process is told of the clip, and of no other."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from media_factory import Audio, Video, write_media
from other_children import GREETS, run_instead

from pipeline import child_process, cut_child, cut_process
from pipeline.child_process import ChildUnavailable
from pipeline.cut import LONGEST_READ, cut_segment
from pipeline.cut_process import CutError, CutProcess, cut_apart
from pipeline.failures import Cause, FetchFailure

MANY = 1 << 30


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder, picture = tmp_path_factory.mktemp("media"), Video(seconds=40.0, fps=5, width=64, height=48, key_every=10)
    return {
        "both": write_media(folder / "a.mp4", picture, Audio(seconds=40.0)).read_bytes(),
        "picture": write_media(folder / "b.mkv", picture, None).read_bytes(),
        "sound": write_media(folder / "c.mp4", None, Audio(seconds=40.0)).read_bytes(),
        "short": write_media(folder / "d.mp4", Video(fps=5, width=64, height=48), Audio()).read_bytes(),
    }


@pytest.fixture
def process() -> Iterator[CutProcess]:
    process = CutProcess()
    yield process
    process.stop()


def cut(process: CutProcess, data: bytes, start_ms: int = 20_000) -> Any:
    return process.cut([io.BytesIO(data)], start_ms, start_ms + 10_000, MANY, None)


@pytest.mark.parametrize("names", [("both",), ("picture", "sound"), ("short",)])
@pytest.mark.parametrize("start", [None, lambda duration_ms: 5000 if duration_ms else 0])
def test_the_same_as_in_this_process(
    media: dict[str, bytes], names: tuple[str, ...], start: Callable[[int | None], int] | None
) -> None:
    made = [
        how([io.BytesIO(media[name]) for name in names], 20_000, 30_000, max_bytes=MANY, start_in_file=start)
        for how in (cut_segment, cut_apart)
    ]
    assert made[0] == made[1] and isinstance(made[1].media_start_ms, int)
    assert (made[1].data is None) == (names == ("short",))


@pytest.mark.parametrize(
    ("data", "max_bytes", "words"),
    [(b"just text", MANY, "not a media file"), (None, 1000, "more than 0.001 MB"), (b"", MANY, "not a media file")],
)
def test_what_cannot_be_cut_is_told_in_the_same_words(
    media: dict[str, bytes], data: bytes | None, max_bytes: int, words: str
) -> None:
    for how in (cut_segment, cut_apart):
        with pytest.raises(FetchFailure, match=words) as raised:
            how([io.BytesIO(media["both"] if data is None else data)], 0, 10_000, max_bytes=max_bytes)
        assert raised.value.cause == Cause.UNDECODABLE


class Fatal(io.BytesIO):
    """Sends its reader a signal at the first read."""

    def __init__(self, data: bytes, process: CutProcess, number: int) -> None:
        super().__init__(data)
        self.process, self.number = process, number

    def read(self, size: int | None = -1) -> bytes:
        assert self.process._process is not None
        os.kill(self.process._process.pid, self.number)
        return super().read(size)


def test_a_clip_that_takes_its_process_down_is_crashed_and_the_next_is_not(
    process: CutProcess, media: dict[str, bytes]
) -> None:
    with pytest.raises(FetchFailure, match="the cut process ended with signal 11") as raised:
        process.cut([Fatal(media["both"], process, signal.SIGSEGV)], 0, 10_000, MANY, None)
    assert raised.value.cause == Cause.CRASHED and process.down
    assert cut(process, media["both"]).data


def test_a_clip_that_keeps_its_process_for_ever_is_crashed(
    process: CutProcess, media: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cut(process, media["both"]).data
    monkeypatch.setattr(cut_process, "CUT_SECONDS", 0.5)
    with pytest.raises(FetchFailure, match=r"took more than 0\.5 s") as raised:
        process.cut([Fatal(media["both"], process, signal.SIGSTOP)], 0, 10_000, MANY, None)
    assert raised.value.cause == Cause.CRASHED and process.down


def test_time_that_is_spent_waiting_for_bytes_is_not_the_clips(
    process: CutProcess, media: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threading.Event().wait(0.7)
            return super().read(size)

    assert cut(process, media["both"]).data
    monkeypatch.setattr(cut_process, "CUT_SECONDS", 5.0)
    wanted = cut(process, media["short"], 0)
    slow = Slow(media["short"])
    monkeypatch.setattr(cut_process, "CUT_SECONDS", 0.6)
    assert process.cut([slow], 0, 10_000, MANY, None) == wanted


def test_a_clip_that_takes_more_memory_than_it_may_is_crashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = Audio(seconds=60.0, codec="pcm_s16le", rate=48_000)
    large = write_media(tmp_path / "a.wav", None, sound).read_bytes()
    monkeypatch.setattr(cut_process, "MEMORY_BYTES", 12_000_000)
    process = CutProcess()
    try:
        assert cut(process, large, 45_000).data
        with pytest.raises(FetchFailure, match="the cut process ended with") as raised:
            process.cut([io.BytesIO(large)], 0, 50_000, MANY, None)
        assert raised.value.cause == Cause.CRASHED
    finally:
        process.stop()


def test_packets_larger_than_a_question_are_read_in_pieces(process: CutProcess, tmp_path: Path) -> None:
    path, noise = tmp_path / "large.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=1, width=1280, height=720, pix_fmt="yuv420p")
        stream.options = {"qp": "0", "preset": "ultrafast", "g": "1"}
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 256, (1080, 1280), np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1)
            output.mux(stream.encode(frame))
    data = path.read_bytes()
    assert max(packet.size for packet in av.open(io.BytesIO(data)).demux()) > LONGEST_READ
    wanted = cut_segment([io.BytesIO(data)], 5000, 15_000, max_bytes=MANY)
    assert process.cut([io.BytesIO(data)], 5000, 15_000, MANY, None) == wanted


@pytest.mark.parametrize("start_ms", [1 << 31, -(10**15)])
def test_times_that_no_ledger_holds_are_the_medias_fault(
    process: CutProcess, monkeypatch: pytest.MonkeyPatch, start_ms: int
) -> None:
    speaking(monkeypatch, f'connection.send_bytes(b\'{{"extension": "mp4", "media_start_ms": {start_ms}}}\')')
    with pytest.raises(FetchFailure, match="beyond any media") as raised:
        cut(process, b"data")
    assert raised.value.cause == Cause.UNDECODABLE


def test_a_process_that_cannot_be_started_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process.sys, "executable", "/there/is/no/python")
    with pytest.raises(ChildUnavailable, match="no cut process can be started"):
        cut(CutProcess(), b"data")


def test_what_reading_raises_comes_through(process: CutProcess, media: dict[str, bytes]) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise FetchFailure(Cause.UNREACHABLE, "cut off")

    with pytest.raises(FetchFailure, match="cut off") as raised:
        process.cut([Broken(media["both"])], 0, 10_000, MANY, None)
    assert raised.value.cause == Cause.UNREACHABLE
    assert cut(process, media["both"]).data


def test_a_process_that_ended_between_two_clips_costs_no_clip(process: CutProcess, media: dict[str, bytes]) -> None:
    wanted = cut(process, media["both"])
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert cut(process, media["both"]) == wanted


def test_a_process_outlives_the_thread_that_needed_it_first(process: CutProcess, media: dict[str, bytes]) -> None:
    thread = threading.Thread(target=cut, args=(process, media["both"]))
    thread.start()
    thread.join()
    assert process._process is not None
    first = process._process.pid
    assert cut(process, media["both"]).data and process._process.pid == first


def test_it_ends_with_its_parent(media: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(media["short"])
    program = (
        "import os, signal, sys; from pipeline.cut_process import CutProcess\n"
        "process = CutProcess(); process.cut([open(sys.argv[1], 'rb')], 0, 10_000, 1 << 30, None)\n"
        "print(process._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.mp4")], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    child = int(done.stdout)
    psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=10)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def speaking(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """Processes have another program in them: it greets, then runs `words` with `connection` once it has a job."""
    run_instead(monkeypatch, GREETS + "connection.recv_bytes()\n" + words)


@pytest.mark.parametrize(
    "words",
    [
        b"{not json",
        b"[1, 2]",
        b"{}",
        b'{"open": "/etc/passwd"}',
        b'{"read": [5, 0, 10]}',
        b'{"read": [0, -1, 10]}',
        b'{"read": [0, 0, 1e300]}',
        b'{"read": [0, 0, 2000000]}',
        b'{"size": null}',
        b'{"starts": "soon"}',
        b'{"extension": "mp4"}',
        b'{"read": [0, 0, 1], "size": 0}',
        b'{"size": 1e999}',
        b'{"extension": "../../x", "media_start_ms": 0}',
        b"x" * 2_000_000,
    ],
    ids=lambda words: words[:30].decode(),
)
def test_what_our_code_does_not_say_ends_the_process(
    process: CutProcess, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    said = repr(words) if len(words) < 1000 else "b'x' * 2_000_000"
    speaking(monkeypatch, f"connection.send_bytes({said}); time.sleep(60)")
    with pytest.raises(FetchFailure) as raised:
        cut(process, b"data")
    assert raised.value.cause == Cause.CRASHED and process.down
    assert "the cut process" in raised.value.words


def test_a_bug_of_ours_is_told_with_its_place(process: CutProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    speaking(monkeypatch, "connection.send_bytes(json.dumps({'internal': 'line 7'}).encode()); time.sleep(60)")
    with pytest.raises(CutError, match="line 7"):
        cut(process, b"data")


def test_processes_that_never_get_ready_are_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    run_instead(monkeypatch, "")
    with pytest.raises(ChildUnavailable, match="exit code 0"):
        cut(CutProcess(), b"data")


@pytest.mark.parametrize(
    ("error", "answer"),
    [(KeyError("ours"), b"KeyError: 'ours'"), (OverflowError("2 ** 63"), b'{"undecodable": "its numbers are beyond')],
)
def test_what_comes_up_in_the_child_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception, answer: bytes
) -> None:
    """Its loop in this process: what is no failure of the media has its traceback in the answer."""

    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cut_child, "cut_segment", broken)
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()) as parent:
        thread = threading.Thread(target=cut_child.serve, args=(Connection(theirs.detach()),))
        thread.start()
        parent.send_bytes(b'{"files": 1, "start_ms": 0, "end_ms": 1, "max_bytes": 1, "asks_start": false}')
        assert answer in parent.recv_bytes()
    thread.join(10)
    assert not thread.is_alive()


def test_it_imports_little() -> None:
    """There is one for each thread that fetches: it must be started quickly."""
    program = (
        "import sys, pipeline.cut_child; print({'numpy', 'requests', 'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
