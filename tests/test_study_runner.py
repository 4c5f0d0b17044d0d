"""Running a study's commands as real processes: in order, side by side, after a failure, after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from attacks.study_runner import COMMANDS, StudyFailed, environment_for, run_study, typed
from attacks.study_tasks import ROOT, Task
from stores.storage import Storage

# Notes when it began and ended, and leaves its summary.
SCRIPT = """
import pathlib, sys, time, os, json
out, folder, seconds, code = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
with open(out + '/log', 'a') as log: log.write(f'+{folder}\\n')
time.sleep(seconds)
with open(out + '/log', 'a') as log: log.write(f'-{folder}\\n')
if not code:
    pathlib.Path(out, folder).mkdir(exist_ok=True)
    pathlib.Path(out, folder, 'summary.json').write_text(json.dumps(os.environ['RAY_ADDRESS']))
sys.exit(code)
"""


class Commands:
    """In place of `StudyTasks`: three commands, the last of which needs the others."""

    def __init__(self, out: Path, seconds: float = 0.0, codes: Sequence[int] = (0, 0, 0)) -> None:
        self.storage, self.out, self.seconds, self.codes = Storage(str(out)), out, seconds, codes

    def tasks(self) -> list[Task]:
        return [
            Task(name, self._argv(name, code), name, tuple("ab") if name == "c" else ())
            for name, code in zip("abc", self.codes, strict=True)
        ]

    def expected(self) -> int:
        return 3

    def done(self, task: Task) -> bool:
        return (self.out / task.folder / "summary.json").exists()

    def _argv(self, name: str, code: int) -> tuple[str, ...]:
        return (sys.executable, "-c", SCRIPT, str(self.out), name, str(self.seconds), str(code))

    def log(self) -> list[str]:
        return (self.out / "log").read_text().split()


def run(commands: Commands, at_once: int = 1) -> list[str]:
    said: list[str] = []
    run_study(commands, environment_for("127.0.0.1:1"), said.append, at_once)  # type: ignore[arg-type]
    return said


def test_one_after_the_other(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    said = run(commands)
    assert commands.log() == ["+a", "-a", "+b", "-b", "+c", "-c"]
    assert [line.split(":")[0] for line in said] == ["[1 of 3] a", "[2 of 3] b", "[3 of 3] c"]
    lines = [json.loads(line) for line in (tmp_path / COMMANDS).read_text().splitlines()]
    assert [line["folder"] for line in lines] == ["a", "b", "c"]
    summary = (tmp_path / "a/summary.json").read_bytes()
    assert lines[0]["digest"] == hashlib.sha256(summary).hexdigest() and lines[0]["exit_code"] == 0
    assert json.loads(summary) == "127.0.0.1:1"
    assert run(commands) == []  # nothing is missing
    (tmp_path / "b/summary.json").unlink()
    assert [line.split(":")[0] for line in run(commands)] == ["[3 of 3] b"]


def test_side_by_side_where_nothing_stands_against_it(tmp_path: Path) -> None:
    commands = Commands(tmp_path, seconds=1.0)
    run(commands, at_once=3)
    log = commands.log()
    assert sorted(log[:2]) == ["+a", "+b"] and log[4:] == ["+c", "-c"]


def test_a_failure_ends_the_study_and_is_noted(tmp_path: Path) -> None:
    commands = Commands(tmp_path, codes=(0, 5, 0))
    with pytest.raises(StudyFailed, match="b ended with exit code 5"):
        run(commands)
    assert commands.log() == ["+a", "-a", "+b", "-b"]
    lines = [json.loads(line) for line in (tmp_path / COMMANDS).read_text().splitlines()]
    assert (lines[1]["exit_code"], lines[1]["digest"]) == (5, None)
    commands.codes = (0, 0, 0)
    run(commands)
    assert commands.log()[4:] == ["+b", "-b", "+c", "-c"]


def test_a_killed_study_takes_its_commands_along(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from test_study_runner import Commands, run\n"
        f"run(Commands(Path({str(tmp_path)!r}), seconds=600))\n"
    )
    root = Path(__file__).resolve().parents[1]
    study = subprocess.Popen([sys.executable, "-c", program], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "log").exists():
        assert time.monotonic() < deadline and study.poll() is None
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-f", f"-P{study.pid}", str(tmp_path)], capture_output=True, text=True, check=True)
    child = int(found.stdout.split()[0])
    study.send_signal(signal.SIGKILL)
    study.wait()
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_command_is_noted_as_one_would_type_it() -> None:
    own = (sys.executable, str(Path(ROOT) / "pipeline/train.py"), "--out", "/study/runs/a")
    assert typed(own) == ["python", "pipeline/train.py", "--out", "/study/runs/a"]
    assert typed((sys.executable, "/elsewhere/train.py")) == ["python", "/elsewhere/train.py"]
    assert typed(("/bin/true", "x")) == ["/bin/true", "x"]
