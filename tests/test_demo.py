"""The demo's jobs end with it; what the demo shows is in tests/e2e."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

DEMO = """
import sys
from rich.console import Console
from pipeline import demo
from pipeline.summary import interrupt_on_sigterm
interrupt_on_sigterm()
demo.LEAVE_S = 1.0
sys.exit(demo.run(Console(quiet=True), [sys.executable, "-c", {job!r}]))
"""


def demo(job: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DEMO.format(job=job)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_a_jobs_exit_code_is_the_demos() -> None:
    assert demo("raise SystemExit(3)").wait(60) == 3


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_demo_that_is_stopped_takes_its_job_along(stubborn: bool) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    with demo(f"{deaf}import time; print('here', flush=True); time.sleep(600)") as running:
        assert running.stdout is not None and running.stdout.readline() == "here\n"
        (job,) = psutil.Process(running.pid).children()
        began = time.monotonic()
        running.terminate()
        assert running.wait(60) != 0
        assert not job.is_running() and time.monotonic() - began < 60
