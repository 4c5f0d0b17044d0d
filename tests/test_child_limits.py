"""Limits that a process sets itself, tried in processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    start = "from pipeline.child_limits import *\n"
    return subprocess.run([sys.executable, "-c", start + program, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("allowed", "code"), [(400, 0), (100, 1)])
def test_memory_beyond_the_limit_is_refused(allowed: int, code: int) -> None:
    done = run(f"limit_data({allowed} << 20); held = bytearray(200 << 20)")
    assert done.returncode == code, done.stderr
    assert ("MemoryError" in done.stderr) == bool(code)


def test_memory_that_is_in_use_already_does_not_count() -> None:
    assert run("held = bytearray(300 << 20); limit_data(100 << 20); more = bytearray(50 << 20)").returncode == 0


def test_one_whose_parent_is_gone_does_not_begin() -> None:
    assert run(f"die_with({os.getpid()})").returncode == 0
    done = run("die_with(1 << 22)")
    assert done.returncode == 1 and "the parent ended" in done.stderr


def test_what_every_process_is_told() -> None:
    program = "found = child_parser('x').parse_args(['--socket', '3', '--parent', '4', '--data-limit', '5']); "
    assert run(program + "print(found.socket, found.parent, found.data_limit)").stdout.split() == ["3", "4", "5"]
    assert run("child_parser('x').parse_args([])").returncode == 2
