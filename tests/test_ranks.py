"""Sums and gathers, alone and over real gloo processes, and a peer that dies in the middle of one."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from models.ranks import PeerLost, Ranks


def test_alone_everything_is_ones_own() -> None:
    ranks = Ranks()
    values = torch.arange(3.0)
    ranks.add(values)
    assert torch.equal(values, torch.arange(3.0))
    assert ranks.gather({"a": 1}) == [{"a": 1}]
    assert ranks.gather_to_first("x") == ["x"]
    ranks.wait()
    assert (ranks.rank, ranks.size, ranks.first) == (0, 1, True)


def test_without_a_process_group_one_is_alone() -> None:
    ranks = Ranks.of_process_group()
    assert (ranks.rank, ranks.size) == (0, 1)


@pytest.mark.parametrize(("rank", "size"), [(1, 1), (-1, 2), (0, 0), (3, 2)])
def test_places_outside_are_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="rank < size"):
        Ranks(rank, size)


def work(rank: int, port: int, folder: str, last: int) -> None:
    """One of three processes: everything once, then rank `last` dies, and the others find out."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=3)
    ranks = Ranks.of_process_group()
    single, double = torch.tensor([1.0, 10.0 * rank]), torch.tensor(0.1 * (rank + 1), dtype=torch.float64)
    counts = torch.tensor([[2**53 + rank]])
    for values in (single, double, counts):
        ranks.add(values)
    found: dict[str, Any] = {
        "place": (ranks.rank, ranks.size, ranks.first),
        "sums": (single.tolist(), float(double), counts.tolist()),
        "gathered": ranks.gather({"rank": rank, "many": [rank] * rank}),
        "first": ranks.gather_to_first("abc"[rank]),
    }
    arrived = Path(folder) / f"arrived{rank}"
    if rank == 1:
        time.sleep(0.3)
    arrived.touch()
    ranks.wait()
    found["all_arrived"] = all((Path(folder) / f"arrived{peer}").exists() for peer in range(3))
    torch.save(found, f"{folder}/found{rank}.pt")
    ranks.wait()
    if rank == last:
        os.kill(os.getpid(), signal.SIGKILL)
    for exchange in (lambda: ranks.add(torch.zeros(3)), lambda: ranks.gather(1), ranks.wait):
        try:
            exchange()
        except PeerLost as lost:
            assert str(lost).startswith(f"rank {rank} of 3: ")
            continue
        os._exit(3)
    os._exit(42)  # a process group that lost a peer may hang in its own end


def test_three_processes_add_gather_and_notice_a_loss(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, port, str(tmp_path), 2)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [42, 42, -signal.SIGKILL]
    for rank in range(3):
        found = torch.load(tmp_path / f"found{rank}.pt")
        assert found["place"] == (rank, 3, rank == 0)
        single, double, counts = found["sums"]
        assert single == [3.0, 30.0]
        assert double == pytest.approx(0.6, rel=1e-15)
        assert counts == [[3 * 2**53 + 3]]  # integers stay exact
        assert found["gathered"] == [{"rank": r, "many": [r] * r} for r in range(3)]
        assert found["first"] == (["a", "b", "c"] if rank == 0 else None)
        assert found["all_arrived"]
