"""Shows how a training or an attack goes: a bar on a terminal, a plain line now and then in a job's log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LINE_EVERY_S = 15.0


class RunProgress:
    """Steps against how many there are, and what else is told of.

    Args:
        console: where to show; a terminal gets a bar, anything else lines through `logging`.
        words: what to say of an event.
        steps: of the whole run; None where the steps' lines say it.
    """

    def __init__(self, console: Console, words: Callable[[Mapping[str, Any]], str], steps: int | None = None) -> None:
        self._steps, self._words = steps, words
        self._events = 0
        self._last_line = time.monotonic()
        self._shown = 0
        self._bar = None
        if console.is_terminal:
            columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
            self._task = self._bar.add_task("step", total=steps, note="")

    def __enter__(self) -> RunProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, latest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        """Shows the latest step (`step`, `clips_per_s`, maybe `loss` and `steps`; empty before the first) and new
        events."""
        for line in events[self._events :]:
            self._say(self._words(line))
        self._events = max(self._events, len(events))
        if not latest:
            return
        loss = f"loss {latest['loss']:.4f}, " if "loss" in latest else ""
        note, steps = f"{loss}{latest['clips_per_s']:.0f} clips/s", latest.get("steps", self._steps)
        if self._bar:
            self._bar.update(self._task, completed=latest["step"], total=steps, note=note)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S and latest["step"] != self._shown:
            self._last_line, self._shown = time.monotonic(), latest["step"]
            logger.info("step %d of %s, %s", latest["step"], steps, note)

    def _say(self, text: str) -> None:
        if self._bar:
            self._bar.console.print(text, highlight=False)
        else:
            logger.info("%s", text)


def evaluation_words(line: Mapping[str, Any]) -> str:
    """What a training's evaluation found: a line with `step` and `valid`."""
    valid = line["valid"]
    classes = f", {valid['mAP_classes']} classes" if "mAP_classes" in valid else ""
    numbers = [f"{name} {value:.4f}" for name in ("mAP", "AUC") if (value := valid[name]) is not None]
    numbers += [f"d′ {valid['d_prime']:.3f}"] if valid["d_prime"] is not None else []
    return f"step {line['step']}: {', '.join(numbers) or 'no class to score'} on {valid['clips']} clips{classes}"
