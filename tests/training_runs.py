"""Small runs for tests: a store of noise, and ranks as real processes that can be made to kill themselves."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from store_factory import make_wide_store

from attacks.attack import attack
from attacks.attack_options import AttackOptions
from attacks.gradients import Gradients
from models.ranks import Ranks
from pipeline.run_folder import RunFolder
from pipeline.train_options import TrainOptions
from pipeline.training import train
from pipeline.training_step import TrainingStep
from stores.layout import Store
from stores.specs import Spec


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: the same bits as workers of one CPU, and no spinning where tests share cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# What ranks are forked with: imports cost more than most tests compute. Optimizers import dynamo, curves Matplotlib.
PRELOAD = ["training_runs", "torch._dynamo", "matplotlib.backends.backend_agg", "matplotlib.figure"]
LOGMEL = Spec("logmel", "logmel", (400, 64), "float16", {"logmel": {"n_mels": 64}})
VIDEO = Spec("r2plus1d_18", "video", (10, 16), "float16", {"weights": {"kind": "random", "seed": 0}})


def make_training_store(folder: Path) -> str:
    """48 clips to train on and 20 to validate with, of 7 classes, that nothing can be learnt from."""
    make_wide_store(str(folder), clips=48, split="train", columns=(LOGMEL, VIDEO))
    make_wide_store(str(folder), clips=20, split="valid", columns=(LOGMEL, VIDEO), first=1000)
    return str(folder)


def split_options(store: Store, **changes: Any) -> TrainOptions:
    """What a mid 1 of the splits `train` and `valid` reads, for tests that read and do not train."""
    made = TrainOptions(
        store=store.storage.uri,
        model="mid1",
        train_split=("train",),
        valid_split=("valid",),
        out="/nowhere",
        width=1 / 32,
        reader_threads=0,
    )
    return replace(made, **changes)


def small_options(store: str, out: Path, **changes: Any) -> TrainOptions:
    """A run of a CSN of a thirty-second of the width, in six groups of two clips a step."""
    options = TrainOptions(
        store=store,
        model="csn",
        train_split=("train",),
        valid_split=("valid",),
        out=str(out),
        width=1 / 32,
        steps=6,
        batch_size=12,
        group_size=2,
        evaluate_every=2,
        reader_threads=0,
        set=("dropout=0.0",),
    )
    return replace(options, **changes)


def train_on(ranks: int, options: TrainOptions | AttackOptions, kill: str = "") -> list[int]:
    """Trains, or attacks, on so many processes of this machine; returns their exit codes.

    Args:
        kill: rank 0 kills itself: `group:N` before it computes its N-th group, `write:NAME:N` in the middle of the N-th
            publishing of a file of that name.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    processes = [context.Process(target=_rank, args=(rank, ranks, port, options, kill)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [int(process.exitcode or 0) for process in processes]


def losses(out: Path) -> list[float]:
    """The losses of a run's steps, in order; each step once."""
    lines = [line for line in lines_of(out) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def lines_of(out: Path) -> list[dict[str, Any]]:
    """A run's log."""
    import json

    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def _rank(rank: int, ranks: int, port: int, options: TrainOptions | AttackOptions, kill: str) -> None:
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
    if kill and rank == 0:
        _arrange(kill)
    if rank == 0:
        RunFolder(options.out).claim(options.decisive())
    job: Any = train if isinstance(options, TrainOptions) else attack
    job(options, Ranks.of_process_group(), torch.device("cpu"))
    if ranks > 1:
        dist.destroy_process_group()


def _arrange(kill: str) -> None:
    what, *rest = kill.split(":")
    left = int(rest[-1])

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if what == "group":
        for owner in (TrainingStep, Gradients):
            compute = owner._of_group

            def dying(self: Any, *arguments: Any, compute: Any = compute) -> torch.Tensor:
                count_down()
                return compute(self, *arguments)

            owner._of_group = dying  # type: ignore[assignment]
        return
    replace_file = os.replace

    def dying_replace(source: Any, target: Any) -> None:
        if Path(target).name == rest[0]:
            count_down()
        replace_file(source, target)

    os.replace = dying_replace  # type: ignore[assignment]
