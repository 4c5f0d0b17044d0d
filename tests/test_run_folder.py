"""A run's folder on disk and in a bucket: whose it is, what its log keeps, what TensorBoard would read."""

from __future__ import annotations

import json
import struct
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboardX.proto.event_pb2 import Event, SessionLog

from models.checkpoint import Checkpoint, CheckpointError
from pipeline.run_folder import BEST, CURVES, EVENTS, LAST, LINES, RunFolder, RunLog
from stores.storage import Storage

VALID = {"mAP": 0.25, "AUC": 0.75, "d_prime": None, "clips": 20}


@pytest.fixture(autouse=True)
def quick_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """test_curves.py looks at real ones."""
    monkeypatch.setattr("pipeline.run_folder.draw_curves", lambda lines: b"a picture of %d lines" % len(lines))


def names_in(uri: str) -> set[str]:
    """Files of a folder, those of events by their folder only."""
    storage = Storage(uri)
    return {entry.name for entry in storage.list("")} | {f"{EVENTS}/*" for _ in storage.list(EVENTS)}


# ---------------------------------------------------------------- checkpoints


def test_checkpoints_by_name_and_none_before_the_first(uri: str) -> None:
    folder = RunFolder(uri)
    assert folder.read(LAST) is None and folder.read(BEST) is None
    made = Checkpoint({"model": "csn"}, {"w": torch.ones(2)}, 4, (), {}, {}, {})
    folder.storage.publish(LAST, made.to_bytes())
    found = folder.read(LAST)
    assert found is not None and found.step == 4
    folder.storage.publish(LAST, made.to_bytes()[:-100])
    with pytest.raises(CheckpointError) as caught:
        folder.read(LAST)
    assert str(caught.value).startswith(f"{uri}/last.pt ")


# ---------------------------------------------------------------- the log


def step_line(step: int, loss: float | None = None) -> dict[str, Any]:
    return {"step": step, "loss": loss or 1 / step, "learning_rate": 1e-3, "clips": 12}


def write_log(uri: str, done: int, steps: range, publish_at: tuple[int, ...]) -> None:
    """An attempt: takes these steps after a checkpoint at `done`, evaluates at some, and ends as if it were killed."""
    log = RunLog(RunFolder(uri), done)
    for step in steps:
        log.add(step_line(step))
        if step in publish_at:
            log.add({"step": step, "valid": VALID})
            log.publish()
    log.close()


def lines_of(uri: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Storage(uri).read(LINES).decode().splitlines()]


def test_a_log_has_a_line_for_each_step_and_evaluation(uri: str) -> None:
    write_log(uri, 0, range(1, 5), (2, 4))
    valid = [{"step": step, "valid": VALID} for step in (2, 4)]
    assert lines_of(uri) == [step_line(1), step_line(2), valid[0], step_line(3), step_line(4), valid[1]]
    assert names_in(uri) == {LINES, CURVES, EVENTS, f"{EVENTS}/*"}
    assert Storage(uri).read(CURVES) == b"a picture of 6 lines"


def test_going_on_drops_what_came_after_the_checkpoint(uri: str) -> None:
    # The log is published before the checkpoint: the attempt died in between, at step 4, and goes on from 2.
    write_log(uri, 0, range(1, 5), (2, 4))
    write_log(uri, 2, range(3, 7), (4, 6))
    steps = [(line["step"], "valid" in line) for line in lines_of(uri)]
    assert steps == [
        (1, False),
        (2, False),
        (2, True),
        (3, False),
        (4, False),
        (4, True),
        (5, False),
        (6, False),
        (6, True),
    ]


def test_a_run_without_a_checkpoint_begins_its_log_anew(uri: str) -> None:
    write_log(uri, 0, range(1, 4), (3,))
    write_log(uri, 0, range(1, 3), (2,))
    assert [line["step"] for line in lines_of(uri)] == [1, 2, 2]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    log = RunLog(RunFolder(str(tmp_path)), 0)
    log.add(step_line(1, float("nan")))
    with pytest.raises(ValueError, match="JSON"):
        log.publish()
    log.close()


# ---------------------------------------------------------------- events

_CRC32C = [0] * 256
for _byte in range(256):
    _rest = _byte
    for _ in range(8):
        _rest = _rest >> 1 ^ (0x82F63B78 if _rest & 1 else 0)
    _CRC32C[_byte] = _rest


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and offset as TFRecord files have it. Source: tensorflow/core/lib/hash/crc32c.h."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_in(data: bytes) -> list[Event]:
    """A file's events, read as TensorBoard does: length, its checksum, payload, its checksum."""
    found, place = [], 0
    while place < len(data):
        length, check = struct.unpack_from("<QI", data, place)
        assert check == masked_crc(data[place : place + 8])
        payload = data[place + 12 : place + 12 + length]
        assert struct.unpack_from("<I", data, place + 12 + length) == (masked_crc(payload),)
        found.append(Event.FromString(payload))
        place += 16 + length
    return found


def scalars_in(uri: str) -> dict[str, dict[int, float]]:
    """Tag → step → value over a folder's event files, as TensorBoard shows them: an attempt's start hides all from its
    step on that was written before."""
    storage = Storage(uri)
    events = [event for entry in storage.list(EVENTS) for event in events_in(storage.read(entry.name))]
    found: dict[str, dict[int, float]] = {}
    for event in sorted(events, key=lambda event: event.wall_time):
        if event.session_log.status == SessionLog.START:
            found = {tag: {s: v for s, v in steps.items() if s < event.step} for tag, steps in found.items()}
        for value in event.summary.value:
            assert event.step not in found.setdefault(value.tag, {})  # nothing shows twice
            found[value.tag][event.step] = value.simple_value
    return found


def test_crc_is_the_standards() -> None:
    assert zlib.crc32(b"123456789") != 0xE3069283
    crc = (masked_crc(b"123456789") - 0xA282EAD8) & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283  # the check value of CRC-32C, RFC 3720


def test_events_hold_every_number_by_tag_and_step(uri: str) -> None:
    write_log(uri, 0, range(1, 7), (2, 4, 6))
    found = scalars_in(uri)
    assert set(found) == {"train/loss", "train/learning_rate", "train/clips", "valid/mAP", "valid/AUC", "valid/clips"}
    assert found["train/loss"] == {step: pytest.approx(1 / step) for step in range(1, 7)}
    assert found["valid/mAP"] == dict.fromkeys((2, 4, 6), 0.25)


def test_events_are_there_while_the_run_goes_on(uri: str) -> None:
    log = RunLog(RunFolder(uri), 0)
    for step in (1, 2, 3):
        log.add(step_line(step))
        log.publish()
        assert set(scalars_in(uri)["train/loss"]) == set(range(1, step + 1))
    log.close()


def test_events_reach_the_disk_between_evaluations_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = RunLog(RunFolder(str(tmp_path)), 0)
    log.add(step_line(1))
    assert "train/loss" not in scalars_in(str(tmp_path))  # not at every step: it syncs the disk
    monkeypatch.setattr("pipeline.run_folder.FLUSH_EVERY_S", 0.0)
    log.add(step_line(2))
    assert set(scalars_in(str(tmp_path))["train/loss"]) == {1, 2}
    log.close()


@pytest.mark.parametrize("done", [0, 2])
def test_steps_that_come_again_show_once(uri: str, done: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(uri, 0, range(1, 5), (2, 4))
    clock = time.time
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: clock() + 10)  # files are named by seconds
    write_log(uri, done, range(done + 1, 7), (4, 6))
    assert len(Storage(uri).list(EVENTS)) == 2
    assert set(scalars_in(uri)["train/loss"]) == set(range(1, 7))


def test_a_folder_elsewhere_leaves_nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_log(f"memory://{uuid.uuid4().hex}", 0, range(1, 3), (2,))
    assert list(tmp_path.iterdir()) == []
