"""What an entry does around its job; whole jobs on Ray are in tests/e2e."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_runs import small_options

from pipeline import job_entry
from pipeline.job_entry import run_entry
from pipeline.summary import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from pipeline.train_options import TrainOptions
from pipeline.trainer import RunFailed
from stores.job_folder import JobFolder


class Entry:
    """An entry whose job counts how often it ran, and ends as it is told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options, self.folder = small_options("/store", folder), JobFolder(str(folder))
        self.started = self.ran = 0
        self.error: BaseException | None = None
        monkeypatch.setattr(job_entry, "run_on_workers", self._run)

    def __call__(self, **changes: Any) -> int:
        parts = {"prepare": self._prepare, "job": None, "display": lambda *_: None, "closing": self._closing}
        return run_entry("entry", **{"start": self._start, **parts, **changes})

    def _start(self) -> None:
        self.started += 1

    def _prepare(self) -> tuple[TrainOptions, JobFolder]:
        self.folder.claim(self.options.decisive())
        return self.options, self.folder

    def _run(self, job: object, options: TrainOptions, display: object) -> None:
        self.ran += 1
        if self.error:
            raise self.error
        self.folder.write_summary({"steps": options.steps})

    @staticmethod
    def _closing(folder: JobFolder, summary: dict[str, Any]) -> Iterator[str]:
        yield f"{summary['steps']} steps"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    return Entry(tmp_path / "run", monkeypatch)


def test_a_job_runs_once_and_is_shown_every_time(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    assert [entry(), entry()] == [EXIT_OK, EXIT_OK]
    assert (entry.started, entry.ran) == (1, 1)
    assert capsys.readouterr().out == "6 steps\n6 steps\n"


def test_what_cannot_be_starts_nothing(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    def prepare() -> tuple[TrainOptions, JobFolder]:
        raise ValueError("expected a store")

    assert entry(prepare=prepare) == EXIT_USAGE
    assert (entry.started, capsys.readouterr().err) == (0, "entry: expected a store\n")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RunFailed("the loss is nan"), EXIT_INTERNAL, "the loss is nan"),
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "goes on"),
    ],
)
def test_a_job_that_ends_early_says_so_and_goes_on_by_the_same_command(
    entry: Entry, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, words: str
) -> None:
    entry.error = error
    assert entry() == code
    assert words in capsys.readouterr().err
    entry.error = None
    assert entry() == EXIT_OK
    assert entry.ran == 2


def test_ray_out_of_reach_is_said_in_one_line(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        raise ConnectionError("no cluster at 10.0.0.1:6379")

    assert entry(start=start) == EXIT_INTERNAL
    assert capsys.readouterr().err == "entry: Ray cannot be reached: no cluster at 10.0.0.1:6379\n"
    assert entry.ran == 0


def test_sigterm_is_an_interrupt(
    entry: Entry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where what was started has put a handler of its own, as Ray does."""
    before = signal.getsignal(signal.SIGTERM)

    def start() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def run(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(job_entry, "run_on_workers", run)
    try:
        assert entry(start=start) == EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "goes on from the last checkpoint" in capsys.readouterr().err
