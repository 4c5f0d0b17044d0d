"""Sums and gathers, alone and over real gloo processes, and a peer that dies in the middle of one."""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from training_runs import PRELOAD

from models.ranks import PeerLost, Ranks


def test_alone_everything_is_ones_own() -> None:
    ranks = Ranks()
    vectors = [torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])]
    assert ranks.add_in_order(vectors, vectors[0], 4, 2).tolist() == [11.0, 22.0]
    assert ranks.add_in_order([], vectors[0], 4, 0).tolist() == [0.0, 0.0]
    assert vectors[0].tolist() == [1.0, 2.0]
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


def items(first: int, count: int, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Vectors whose sum depends on the order: of all sizes, and with both signs."""
    generator = torch.Generator().manual_seed(first)
    scales = 10.0 ** torch.randint(-3, 6, (count, 1), generator=generator)
    return list((torch.randn(count, length, generator=generator, dtype=torch.float64) * scales).to(dtype))


SUMS = [(0, 6, 10), (6, 6, 10), (4, 3, 7), (5, 1, 4), (7, 8, 2), (2, 2, 1), (3, 0, 5)]  # first item, how many, length


def work(rank: int, port: int, folder: str, last: int) -> None:
    """One of three processes: everything once, then rank `last` dies, and the others find out."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=3)
    ranks = Ranks.of_process_group()
    sums = []
    for dtype in (torch.float32, torch.float64):
        for first, count, length in SUMS:
            vectors = items(first, count, length, dtype)
            mine = [vector for number, vector in enumerate(vectors, first) if number % 3 == rank]
            sums.append(ranks.add_in_order(mine, torch.empty(length, dtype=dtype), first, count))
    try:
        ranks.add_in_order([torch.zeros(2)] * 3, torch.zeros(2), 0, 3)
    except ValueError as error:
        refused = str(error)
    found: dict[str, Any] = {
        "place": (ranks.rank, ranks.size, ranks.first),
        "sums": sums,
        "refused": refused,
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
    adding = partial(ranks.add_in_order, [torch.zeros(3)], torch.zeros(3), 0, 3)
    for exchange in (adding, partial(ranks.gather, 1), partial(ranks.gather_to_first, 1), ranks.wait):
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
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    processes = [context.Process(target=work, args=(rank, port, str(tmp_path), 2)) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [42, 42, -signal.SIGKILL]
    for rank in range(3):
        found = torch.load(tmp_path / f"found{rank}.pt")
        assert found["place"] == (rank, 3, rank == 0)
        assert found["refused"] == f"rank {rank}: expected items [{rank}], got 3 vectors"
        asked = [(dtype, *sizes) for dtype in (torch.float32, torch.float64) for sizes in SUMS]
        for (dtype, first, count, length), total in zip(asked, found["sums"], strict=True):
            expected = np.zeros(length, np.float32 if dtype == torch.float32 else np.float64)
            for vector in items(first, count, length, dtype):
                expected += vector.numpy()
            np.testing.assert_array_equal(total.numpy(), expected)  # to the bit, in the items' order
            assert total.dtype == dtype
        assert found["gathered"] == [{"rank": r, "many": [r] * r} for r in range(3)]
        assert found["first"] == (["a", "b", "c"] if rank == 0 else None)
        assert found["all_arrived"]
