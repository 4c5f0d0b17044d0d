"""Shows how a training goes: a bar on a terminal, a plain line now and then in a job's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LINE_EVERY_S = 15.0


class TrainProgress:
    """Steps against how many there are, and every evaluation.

    Args:
        console: where to show; a terminal gets a bar, anything else lines through `logging`.
        steps: of the whole run.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self._steps = steps
        self._evaluations = 0
        self._last_line = time.monotonic()
        self._shown = 0
        self._bar = None
        if console.is_terminal:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
            self._task = self._bar.add_task("step", total=steps, note="")

    def __enter__(self) -> TrainProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, latest: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]) -> None:
        """Shows the latest step (`step`, `loss`, `clips_per_s`; empty before the first) and new evaluations."""
        for line in evaluations[self._evaluations :]:
            self._say(_evaluation(line))
        self._evaluations = max(self._evaluations, len(evaluations))
        if not latest:
            return
        note = f"loss {latest['loss']:.4f}, {latest['clips_per_s']:.0f} clips/s"
        if self._bar:
            self._bar.update(self._task, completed=latest["step"], note=note)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S and latest["step"] != self._shown:
            self._last_line, self._shown = time.monotonic(), latest["step"]
            logger.info("step %d of %d, %s", latest["step"], self._steps, note)

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False)
        else:
            logger.info("%s", text)


def _evaluation(line: Mapping[str, Any]) -> str:
    valid = line["valid"]
    numbers = [f"{name} {value:.4f}" for name in ("mAP", "AUC") if (value := valid[name]) is not None]
    numbers += [f"d′ {valid['d_prime']:.3f}"] if valid["d_prime"] is not None else []
    return f"step {line['step']}: {', '.join(numbers) or 'no class to score'} on {valid['clips']} clips"
