"""Decode processes: right answers in any order, and a clip that kills or hangs its process is found alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from media_factory import Audio, Video, write_media

from pipeline.decode_process import DecodeJob, DecodeOptions, DecodeResult
from pipeline.decoder import Decoder
from pipeline.media import FrameSpec, decode_clip

FRAMES = FrameSpec(fps=10, size=64)
PICTURES = DecodeOptions(sample_rate=16_000, frames=FRAMES, frame_count=100, seconds_per_clip=60)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for i in range(4):
        audio = Audio(frequency=300.0 * (i + 1))
        made.append(write_media(folder / f"{i}.mp4", Video(fps=10), audio).read_bytes())
    return made


def jobs(clips: list[bytes | str]) -> list[DecodeJob]:
    return [DecodeJob(i, f"k{i}_0", clip, 0, 0, 10_000) for i, clip in enumerate(clips)]


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(PICTURES, processes=2)
    yield decoder
    decoder.close()


def by_index(results: Iterator[DecodeResult]) -> dict[int, tuple[DecodeResult, np.ndarray | None]]:
    """Frames are views of shared memory: they are copied as they come."""
    return {r.index: (r, None if r.frames is None else r.frames.copy()) for r in results}


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "pipeline.decode_child" in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def test_answers_equal_decoding_here_and_frames_are_not_mixed_up(decoder: Decoder, clips: list[bytes]) -> None:
    given = [clips[i % 4] for i in range(9)]
    found = by_index(decoder.decode(jobs(given)))
    assert sorted(found) == list(range(9))
    for index, (result, frames) in found.items():
        here = decode_clip(
            given[index], start_ms=0, segment_start_ms=0, segment_end_ms=10_000, sample_rate=16_000, frames=FRAMES
        )
        assert result.status == "ok"
        assert result.facts["audio_ms"] == round(1000 * here.audio_s)
        np.testing.assert_array_equal(frames, here.frames)


def test_media_may_stay_in_files(decoder: Decoder, clips: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "-a_b.mp4").write_bytes(clips[0])
    found = by_index(decoder.decode(jobs([str(tmp_path / "-a_b.mp4"), clips[0]])))
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_what_cannot_be_decoded_says_why_and_harms_nobody(decoder: Decoder, clips: list[bytes]) -> None:
    found = by_index(decoder.decode(jobs([b"<html>not here</html>", clips[0], b"\x00" * 4000, clips[1]])))
    assert [found[i][0].status for i in range(4)] == ["undecodable", "ok", "undecodable", "ok"]
    assert found[0][0].words


def test_logmel_is_that_of_the_front_end(clips: list[bytes]) -> None:
    import torch

    from models.frontend import LogMel

    decoder = Decoder(DecodeOptions(16_000, None, logmel=True))
    found = by_index(decoder.decode(jobs(clips[:1])))
    decoder.close()
    here = decode_clip(clips[0], start_ms=0, segment_start_ms=0, segment_end_ms=10_000, sample_rate=16_000, frames=None)
    expected = LogMel()(torch.from_numpy(here.waveform)[None])[0].numpy()
    assert found[0][0].logmel.dtype == np.float16
    # The child runs on one thread: sums may be taken in another order, and float16 then rounds the other way.
    np.testing.assert_allclose(found[0][0].logmel.astype(np.float32), expected, atol=0.07)
    assert found[0][0].frames is None


def test_a_killed_process_costs_a_second_try_and_no_clip(decoder: Decoder, clips: list[bytes]) -> None:
    results = decoder.decode(jobs([clips[i % 4] for i in range(8)]))
    first = next(results)
    victim = children()[0]
    os.kill(victim.pid, signal.SIGKILL)
    found = by_index(results)
    assert sorted([first.index, *found]) == list(range(8))
    assert {result.status for result, _ in found.values()} == {"ok"}


def test_a_clip_that_hangs_is_tried_twice_then_quarantined_and_the_rest_completes(clips: list[bytes]) -> None:
    decoder = Decoder(DecodeOptions(16_000, FRAMES, 100, seconds_per_clip=1.5), processes=1)
    # A pipe that nobody writes to: opening it blocks in the kernel, as a hung disk or a decoder in C would.
    pipe = Path(f"/tmp/avlens-test-{os.getpid()}.mp4")
    os.mkfifo(pipe)
    try:
        began = time.monotonic()
        found = by_index(decoder.decode(jobs([clips[0], str(pipe), clips[1]])))
    finally:
        pipe.unlink()
        decoder.close()
    assert [found[i][0].status for i in range(3)] == ["ok", "crashed", "ok"]
    assert "more than 1.5 s" in (found[1][0].words or "")
    assert time.monotonic() - began < 30


def test_a_clip_that_takes_its_process_down_is_crashed(clips: list[bytes]) -> None:
    # 64 kB is not enough for a single decoded picture, so every clip ends its process.
    decoder = Decoder(DecodeOptions(16_000, FRAMES, 100, memory_bytes=1 << 16))
    found = by_index(decoder.decode(jobs(clips[:1])))
    decoder.close()
    assert found[0][0].status == "crashed"
    assert "exit code" in (found[0][0].words or "") or "signal" in (found[0][0].words or "")


def test_an_abandoned_shard_leaves_nothing_for_the_next(decoder: Decoder, clips: list[bytes]) -> None:
    results = decoder.decode(jobs(clips))
    next(results)
    results.close()
    found = by_index(decoder.decode(jobs(clips[:2][::-1])))
    assert sorted(found) == [0, 1]
    here = decode_clip(clips[1], start_ms=0, segment_start_ms=0, segment_end_ms=10_000, sample_rate=None, frames=FRAMES)
    np.testing.assert_array_equal(found[0][1], here.frames)


def test_a_source_that_fails_midway_leaves_no_answer_for_the_next_shard(decoder: Decoder, clips: list[bytes]) -> None:
    def failing() -> Iterator[DecodeJob]:
        yield jobs(clips)[3]
        raise OSError("the store is out of reach")

    with pytest.raises(OSError, match="out of reach"):
        list(decoder.decode(failing()))
    found = by_index(decoder.decode(jobs(clips[:2])))
    for index, (_, frames) in found.items():
        here = decode_clip(
            clips[index], start_ms=0, segment_start_ms=0, segment_end_ms=10_000, sample_rate=None, frames=FRAMES
        )
        np.testing.assert_array_equal(frames, here.frames)


def test_processes_end_with_the_decoder_and_with_their_parent(decoder: Decoder, clips: list[bytes]) -> None:
    list(decoder.decode(jobs(clips[:2])))
    assert len(children()) == 2
    decoder.close()
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == []


def test_a_reader_thread_is_not_needed(decoder: Decoder, clips: list[bytes]) -> None:
    before = threading.active_count()
    list(decoder.decode(jobs(clips)))
    assert threading.active_count() == before


def test_a_suspect_is_tried_again_last_and_alone(clips: list[bytes], tmp_path: Path) -> None:
    pipe = tmp_path / "hang.mp4"
    os.mkfifo(pipe)
    decoder = Decoder(DecodeOptions(16_000, FRAMES, 100, seconds_per_clip=2.0), processes=2)
    list(decoder.decode(jobs(clips)))  # both are ready
    many = [str(pipe), *(40 * clips)]
    order, under_way = [], []
    try:
        for result in decoder.decode(jobs(many)):
            order.append(result.index)
            under_way.append([process.job.index for process in decoder._processes if process.job is not None])
    finally:
        decoder.close()
    assert sorted(order) == list(range(len(many)))
    assert order[-1] == 0
    first_try_ended = next(i for i, others in enumerate(under_way) if 0 not in others)
    assert under_way[first_try_ended]  # others went on meanwhile
    assert all(0 not in others or others == [0] for others in under_way[first_try_ended:])
    assert under_way[-2] == [0]


@pytest.mark.parametrize("kind", ["empty file", "empty bytes", "huge samples", "one sample"])
def test_what_holds_no_sound_is_the_clips_failure_not_ours(kind: str, clips: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "odd.wav"
    if kind == "huge samples":
        soundfile.write(path, np.full(160_000, 3e38, np.float32), 16_000, subtype="FLOAT")
    elif kind == "one sample":
        soundfile.write(path, np.zeros(10, np.float32), 1, subtype="PCM_16")
    else:
        path.write_bytes(b"")
    decoder = Decoder(DecodeOptions(16_000, None, logmel=True))
    try:
        found = by_index(decoder.decode(jobs([path.read_bytes() if kind == "empty bytes" else str(path), clips[0]])))
    finally:
        decoder.close()
    assert [found[i][0].status for i in (0, 1)] == ["undecodable", "ok"]
    assert found[0][0].words
