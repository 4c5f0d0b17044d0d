"""What a rank runs, without Ray Train around it; whole jobs on Ray are in tests/e2e."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import train as ray_train

from models.ranks import Ranks
from pipeline import rank_worker
from pipeline.rank_worker import MonitorClient, packed, work


class Monitor:
    """Keeps what it is told; `.tell.remote` is how actors are called."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.tell = self

    def remote(self, line: dict[str, Any]) -> None:
        self.told.append(line)


def test_steps_are_told_once_a_second_and_all_else_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(rank_worker.time, "monotonic", lambda: now[0])
    client = MonitorClient(monitor := Monitor())
    for step, second in enumerate((100.0, 100.5, 101.0, 101.9, 102.0)):
        now[0] = second
        client({"step": step, "clips_per_s": 3.0})
    client({"step": 4, "valid": {"mAP": 0.5}})
    assert [line["step"] for line in monitor.told] == [0, 2, 4, 4]


def test_a_job_gets_its_options_rank_device_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.train.torch  # noqa: F401 - not imported by ray.train

    monkeypatch.setattr(ray_train.torch, "get_device", lambda: torch.device("cpu"))
    before = torch.get_num_threads()

    def job(options: dict[str, int], ranks: Ranks, device: torch.device, tell: MonitorClient) -> None:
        tell({"event": "here", "options": options, "rank": (ranks.rank, ranks.size), "device": str(device)})
        tell({"event": "threads", "number": torch.get_num_threads()})

    try:
        work(packed(job, {"steps": 3}, monitor := Monitor(), 2))
    finally:
        torch.set_num_threads(before)
    found = monitor.told
    assert found[0] == {"event": "here", "options": {"steps": 3}, "rank": (0, 1), "device": "cpu"}
    assert found[1] == {"event": "threads", "number": 2}


def test_the_controller_need_not_import_what_only_workers_need(repository: Path) -> None:
    """It imports this module before it asks for workers: seconds of every start."""
    code = "import sys, pipeline.rank_worker as r; print(sorted({'torch', 'models', 'stores'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
