"""Runs a study's commands one after the other or several at once, and writes down what ran.

Each is a process of its own, as a researcher would start it, on the Ray that the study runs on. What is done is not
done again; a study that was killed goes on where it was, its commands too.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attacks.study_tasks import ROOT, StudyTasks, Task

logger = logging.getLogger(__name__)

COMMANDS = "commands.jsonl"
POLL_S = 0.2


class StudyFailed(Exception):  # noqa: N818 - the end of a job
    """A command of the study failed; the words say which. What is done stays done."""


def run_study(tasks: StudyTasks, environment: dict[str, str], say: Callable[[str], None], at_once: int = 1) -> None:
    """Runs all that is not done.

    Args:
        environment: of the commands; it names the Ray cluster.
        say: takes a line for people.
        at_once: how many commands run side by side, where their needs allow it.

    Raises:
        StudyFailed: a command ended with another exit code than 0; those beside it were stopped.
    """
    running: dict[str, tuple[Task, subprocess.Popen[bytes], float]] = {}
    expected = tasks.expected()
    try:
        while True:
            listed = tasks.tasks()
            done = {task.folder for task in listed if task.folder not in running and tasks.done(task)}
            if len(done) == len(listed) and not running:
                return
            ready = [
                task
                for task in listed
                if task.folder not in done and task.folder not in running and set(task.needs) <= done
            ]
            for task in ready[: at_once - len(running)]:
                say(f"[{len(done) + len(running) + 1} of {expected}] {task.id}: {_shown(task)}")
                process = subprocess.Popen(task.argv, env=environment, preexec_fn=_end_with_parent)
                running[task.folder] = (task, process, time.monotonic())
            _wait(tasks, running)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()


def _wait(tasks: StudyTasks, running: dict[str, tuple[Task, subprocess.Popen[bytes], float]]) -> None:
    """Returns when one of them has ended. Raises StudyFailed when it failed."""
    while not (ended := [item for item in running.values() if item[1].poll() is not None]):
        time.sleep(POLL_S)
    for task, process, began in ended:
        del running[task.folder]
        note(tasks, task, time.monotonic() - began, process.returncode)
        if process.returncode:
            raise StudyFailed(f"{task.id} ended with exit code {process.returncode}: {_shown(task)}")


def note(tasks: StudyTasks, task: Task, seconds: float, code: int) -> None:
    """Adds a line to the study's list of commands."""
    data, _ = tasks.storage.read_versioned(COMMANDS)
    summary, _ = tasks.storage.read_versioned(f"{task.folder}/summary.json")
    line: dict[str, Any] = {
        "id": task.id,
        "argv": typed(task.argv),
        "folder": task.folder,
        "seconds": round(seconds, 1),
        "exit_code": code,
        "digest": None if summary is None else hashlib.sha256(summary).hexdigest(),
    }
    tasks.storage.publish(COMMANDS, (data or b"") + json.dumps(line, sort_keys=True).encode() + b"\n")


def typed(argv: Sequence[str]) -> list[str]:
    """A command as one would type it in a checkout, wherever this one lies."""
    python, script, *rest = argv
    if python != sys.executable:
        return list(argv)
    path = Path(script)
    return ["python", str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else script, *rest]


def _shown(task: Task) -> str:
    return " ".join(typed(task.argv))


def _end_with_parent() -> None:
    """A study that is killed takes its commands along: they would go on beside those of the next one."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def environment_for(address: str) -> dict[str, str]:
    """The environment of commands that run on the Ray at an address."""
    return {**os.environ, "RAY_ADDRESS": address}
