"""What Ray Train calls on each worker of an attempt.

Ray Train's controller imports this module as well, and waits for it before it asks for workers: the job and its options
come pickled, so that only the workers import what those need.
"""

from __future__ import annotations

import time
from typing import Any

from ray import cloudpickle
from ray.util.metrics import Gauge, Histogram

WAIT_SECONDS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]  # bounds of a histogram


class MonitorClient:
    """The first rank's end of the monitor: at most one step's line a second, and no waiting. Prometheus is told too."""

    def __init__(self, monitor: Any) -> None:
        self._monitor = monitor
        self._told_at = 0.0
        what = "Seconds of a step in which the first rank waited for the reader"
        self._wait = Histogram("avlens_reader_wait_seconds", description=what, boundaries=WAIT_SECONDS)
        self._rate = Gauge("avlens_clips_per_second", description="Clips a second, all ranks together")

    def __call__(self, line: dict[str, Any]) -> None:
        if "wait_s" in line:
            self._wait.observe(line["wait_s"])
        if "clips_per_s" in line:
            self._rate.set(line["clips_per_s"])
        if "clips_per_s" not in line or time.monotonic() - self._told_at >= 1.0:
            self._monitor.tell.remote(line)
            self._told_at = time.monotonic()


def packed(job: object, options: object, monitor: object, threads: int) -> dict[str, Any]:
    """A worker's config: the job with its options, the driver's monitor, and torch's threads on a CPU."""
    return {"work": cloudpickle.dumps((job, options)), "monitor": monitor, "threads": threads}


def work(config: dict[str, Any]) -> None:
    """One worker of an attempt: runs the job as its rank.

    Args:
        config: `packed`.
    """
    import logging

    import ray.train.torch
    import torch

    from models.ranks import Ranks

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    job, options = cloudpickle.loads(config["work"])
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"])
    else:
        torch.backends.cudnn.deterministic = True  # a resumed run is the run that was not cut off
    job(options, Ranks.of_process_group(), device, MonitorClient(config["monitor"]))
