"""What a benchmark ran on, for the file that it writes."""

from __future__ import annotations

import os
import platform
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
