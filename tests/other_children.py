"""Other programs in the place of the processes that touch media, for tests of their parents."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline import child_process

GREETS = (
    "import json, os, sys, time; from multiprocessing.connection import Connection\n"
    "connection = Connection(int(sys.argv[sys.argv.index('--socket') + 1])); connection.send_bytes(b'ready')\n"
)


def run_instead(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Processes that are started from now on run a Python program, with the words of the one that they replace."""
    popen = subprocess.Popen

    def other(command: list[str], **options: object) -> subprocess.Popen[bytes]:
        return popen([sys.executable, "-c", program, *command[3:]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(child_process.subprocess, "Popen", other)
