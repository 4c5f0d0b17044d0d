"""What a benchmark ran on, for the file that it writes; and what its peers run in."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def hardware() -> dict[str, str | int]:
    """The processor, the cores this process may use, the memory, and what else ran."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30),
        "load_average_at_the_end": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    }


def environment_with(folder: Path, packages: Sequence[str]) -> Path:
    """A virtual environment with packages of peers in it, made in a folder; the folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *packages], check=True)
    return folder
