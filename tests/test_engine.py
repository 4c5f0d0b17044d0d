"""How a run ends where Ray cannot be started; whole runs are in tests/e2e and tests/faults."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.engine import run_to_end
from pipeline.summary import EXIT_INTERNAL, EXIT_INTERRUPTED


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (SystemExit(15), EXIT_INTERRUPTED, "stopped before anything was done"),  # Ray's answer to SIGTERM
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped before anything was done"),
        (ConnectionError("nobody there"), EXIT_INTERNAL, "Ray cannot be reached: nobody there"),
    ],
)
def test_ray_that_does_not_start(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Never:
        def run(self) -> None:
            raise AssertionError("was run")

    def start() -> None:
        raise error

    run: Any = Never()
    assert run_to_end("ingest", run, True, start) == code
    assert capsys.readouterr().err == f"ingest: {words}\n"
