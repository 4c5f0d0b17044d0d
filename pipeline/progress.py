"""Shows how an ingest goes: a bar on a terminal, a plain line now and then in a job's log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LINE_EVERY_S = 15.0


class ProgressDisplay:
    """Counts of clips that went through a stage, against how many there are to go.

    Args:
        console: where to show; a terminal gets bars, anything else lines through `logging`.
    """

    def __init__(self, console: Console, fetches: int, decodes: int) -> None:
        self._goals = {"fetch": fetches, "features": decodes}
        self._bars = None
        self._last_line = time.monotonic()
        self._shown: tuple[int, int] | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bars = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console)
            self._tasks = {name: self._bars.add_task(name, total=goal, note="") for name, goal in self._goals.items()}

    def __enter__(self) -> ProgressDisplay:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def update(self, counts: Counter[str], note: str) -> None:
        """Shows the counts: `fetched` and `failed` of this run's fetches; `decoded` and `encoded` of its features."""
        fetched = counts["fetched"] + counts["failed"]
        decoded = counts["decoded"]
        if self._bars:
            for name, count in (("fetch", fetched), ("features", decoded)):
                self._goals[name] = max(self._goals[name], count)
                self._bars.update(self._tasks[name], completed=count, total=self._goals[name], note=note)
        elif time.monotonic() - self._last_line >= LINE_EVERY_S and (fetched, decoded) != self._shown:
            self._last_line, self._shown = time.monotonic(), (fetched, decoded)
            logger.info(
                "fetched %d of at most %d (%d failed), decoded %d of at most %d clips, encoded %d; %s",
                counts["fetched"],
                self._goals["fetch"],
                counts["failed"],
                decoded,
                self._goals["features"],
                counts["encoded"],
                note,
            )
