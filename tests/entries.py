"""Entries called in this process, as their command line would."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Called:
    """How a call ended: its exit code, and what it said."""

    code: int
    output: str
    error: str


def call(main: Callable[[], int], *words: str) -> Called:
    """Calls an entry's `main` with the words of its command line."""
    before, output, error = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["entry", *words]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            code = main()
    except SystemExit as end:  # of the parser
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return Called(code, output.getvalue(), error.getvalue())
