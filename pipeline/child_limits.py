"""How the processes that touch strangers' media begin: they end with their parent, and have a limit of memory.

They speak over an inherited socket, in JSON and raw bytes, never in pickles: hostile input could take them over.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1


def child_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of what `pipeline.child_process` tells every such process."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("--socket", "--parent", "--data-limit"):
        parser.add_argument(name, type=int, required=True)
    return parser


def limit_data(extra: int) -> None:
    """Caps private memory at what is in use now plus `extra` bytes (RLIMIT_DATA counts anonymous maps)."""
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = in_use + extra
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def die_with(parent: int) -> None:
    """Asks the kernel to kill this process when its parent goes, however it goes (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent ended before this process began")
