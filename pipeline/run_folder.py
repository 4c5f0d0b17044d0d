"""What a training run leaves in its folder, and how a run that was cut off is taken up again.

    config.json             what decides the result; another run does not fit in
    last.pt  best.pt        checkpoints: where to go on, and the best by the validation split's mAP
    metrics.jsonl           a line for every step and every evaluation
    curves.png              the same as a picture
    events/                 the same for TensorBoard
    scores/<split>.parquet  the best checkpoint's scores of the validation split
    summary.json            when the run has ended

Each file is replaced whole, in one atomic step. `last.pt` is published last of all and is the commit: what else the
folder has from after it is dropped when the run goes on.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from models.checkpoint import Checkpoint
from pipeline.curves import draw_curves
from stores.job_folder import JobFolder

logger = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.pt"
FLUSH_EVERY_S = 10.0  # so old TensorBoard's newest events are, at most
LINES, CURVES, EVENTS = "metrics.jsonl", "curves.png", "events"


class RunFolder(JobFolder):
    """A training run's files."""

    def read(self, name: str) -> Checkpoint | None:
        """`LAST` or `BEST`; None before the first. Raises CheckpointError where it is damaged."""
        data, _ = self.storage.read_versioned(name)
        return None if data is None else Checkpoint.from_bytes(data, self.storage.url(name))


class RunLog:
    """The run's history, kept by the rank that writes.

    Args:
        step: steps that the checkpoint has; later lines of a run that was cut off are dropped.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        self.storage = folder.storage
        data, _ = self.storage.read_versioned(LINES) if step else (None, None)
        lines = [json.loads(line) for line in (data or b"").splitlines()]
        self.lines: list[dict[str, Any]] = [line for line in lines if line["step"] <= step]
        # TensorBoard reads while it is written. Where the folder is no disk, a copy goes there with each checkpoint.
        self._local = None if self.storage.is_local else tempfile.TemporaryDirectory(prefix="avlens-events-")
        self._events = Path(self._local.name if self._local else self.storage.path(EVENTS))
        self._events.mkdir(parents=True, exist_ok=True)
        # The file itself and not SummaryWriter, which queues events for a thread: its flush does not wait for those.
        self._writer = EventsWriter(str(self._events / "events"))
        self._flushed_at = time.monotonic()
        # What a run that was cut off wrote after its checkpoint comes again, and must not show twice.
        self._writer.write_event(
            Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START))
        )

    def add(self, line: dict[str, Any]) -> None:
        """Adds what was measured at a step: `step`, and numbers by name; those of a split are in a dict by its name."""
        self.lines.append(line)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in _scalars(line)]
        self._writer.write_event(Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values)))
        if time.monotonic() - self._flushed_at >= FLUSH_EVERY_S:
            self._flush()

    def publish(self) -> None:
        """Writes lines, curves and events to the folder."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.lines)
        self.storage.publish(LINES, text.encode())
        self.storage.publish(CURVES, draw_curves(self.lines))
        self._flush()
        if self._local:
            for path in self._events.iterdir():
                self.storage.publish(f"{EVENTS}/{path.name}", path.read_bytes())  # a copy: it is still being written

    def close(self) -> None:
        """Ends the writing of events."""
        self._writer.close()
        if self._local:
            self._local.cleanup()

    def _flush(self) -> None:
        self._writer.flush()
        self._flushed_at = time.monotonic()


def _scalars(line: Mapping[str, Any]) -> list[tuple[str, float]]:
    """A line's numbers by their names in TensorBoard: `train/loss`, `valid/mAP`."""
    found = []
    for name, value in line.items():
        if isinstance(value, Mapping):
            found += [(f"{name}/{inner}", number) for inner, number in value.items() if isinstance(number, int | float)]
        elif name != "step" and isinstance(value, int | float):
            found.append((f"train/{name}", value))
    return found
