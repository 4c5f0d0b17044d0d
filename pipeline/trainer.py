"""A job of several ranks on Ray: workers of Ray Train, restarted when one is lost, and what the driver shows meanwhile.

The job itself is a function that knows no Ray: `pipeline.training.train`, or an attack. A lost worker or node ends all
workers of the attempt; the next attempt goes on from the last checkpoint, without limit. An error of the code or of the
data ends the run.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from models.checkpoint import CheckpointError
from models.ranks import PeerLost, Ranks
from pipeline.rank_worker import packed, work
from pipeline.training_step import NonFiniteLoss
from stores.layout import StoreError
from stores.shard_index import ShardError
from stores.storage import StorageError

logger = logging.getLogger(__name__)

POLL_S = 0.5
LONGEST_PAUSE_S = 60.0
# Ray Train's watcher for announced losses of nodes costs seconds of every start, and has nothing to tell us: a lost
# worker is a lost worker, and checkpoints come on their own.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
TRIES_WITHOUT_A_STEP = 5  # attempts in a row that end before they get further than the last one
EXPECTED = (ValueError, StoreError, ShardError, StorageError, CheckpointError, NonFiniteLoss)


class RunFailed(Exception):  # noqa: N818 - the end of a job, not an error among others
    """The run cannot go on; the words say why. What it has so far is in its folder."""


class RankOptions(Protocol):
    """What is read of a job's options here; the whole of them goes to the job."""

    @property
    def out(self) -> str:
        """The run's folder."""

    @property
    def workers(self) -> int | None:
        """How many; None for one per GPU, or one on CPUs."""

    @property
    def gpu(self) -> bool | None:
        """Whether each has a GPU; None for where the cluster has any."""

    @property
    def cpus_per_worker(self) -> int:
        """CPUs, and torch threads, of a worker without a GPU."""


# Called on every worker with options, its ranks, its device, and what takes lines of progress: those of steps have
# `step` and `clips_per_s`, all others are told of once.
Job = Callable[[Any, Ranks, Any, Callable[[dict[str, Any]], None]], None]


class Display(AbstractContextManager[Any], Protocol):
    """Shows how a run goes."""

    def update(self, latest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        """Shows the latest step, and what of all events so far was not shown yet."""


class Monitor:
    """Holds what the first rank said last, for the driver to show; a restart may lose that, never work."""

    def __init__(self) -> None:
        self.latest: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []

    def tell(self, line: dict[str, Any]) -> None:
        """Takes a line of a job's progress."""
        if "clips_per_s" in line:
            self.latest = line
        else:
            self.events.append(line)

    def read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The last step's line, and all others that were told."""
        return self.latest, self.events


MonitorActor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Monitor)


@dataclass(frozen=True)
class Layout:
    """How the workers lie on the cluster."""

    workers: int
    gpu: bool
    cpus: int

    @classmethod
    def of(cls, options: RankOptions) -> Layout:
        """What the options ask for, or what the cluster has.

        Raises:
            RunFailed: the cluster has less, so the workers would be waited for for ever.
        """
        have = ray.cluster_resources()
        gpus = int(have.get("GPU", 0))
        gpu = gpus > 0 if options.gpu is None else options.gpu
        workers = options.workers or (max(1, gpus) if gpu else 1)
        cpus = 1 if gpu else min(options.cpus_per_worker, max(1, int(have.get("CPU", 1)) // workers))
        lacking = "GPUs" if gpu and workers > gpus else "CPUs" if workers * cpus > have.get("CPU", 0) else None
        if lacking:
            raise RunFailed(f"the cluster has too few {lacking} for --workers {workers}: {have}")
        return cls(workers, gpu, cpus)


def run_on_workers(job: Job, options: RankOptions, display: Display) -> None:
    """Runs a job until it has ended. Ray must be running.

    Args:
        job: a function of a module, not of an entry file; called again after a loss, it goes on where it was.

    Raises:
        RunFailed: it cannot go on.
    """
    monitor = MonitorActor.remote()
    ended = threading.Event()
    show = threading.Thread(target=_show, args=(monitor, display, ended), daemon=True)
    show.start()
    failures, furthest = 0, -1
    try:
        while (error := _attempt(job, options, monitor)) is not None:
            step = ray.get(monitor.read.remote())[0].get("step", 0)
            failures = 0 if step > furthest else failures + 1
            furthest = max(furthest, step)
            if failures >= TRIES_WITHOUT_A_STEP:
                raise RunFailed(f"{failures} attempts in a row lost their workers before they got anywhere: {error}")
            pause = min(LONGEST_PAUSE_S, 2.0**failures)
            logger.warning("a worker was lost (%s); going on from the last checkpoint in %.0f s", error, pause)
            time.sleep(pause)
    finally:
        ended.set()
        show.join(timeout=10)


def _attempt(job: Job, options: RankOptions, monitor: Any) -> str | None:
    """Runs workers until they end. Returns None when the run is done, and what was lost when it is worth another try.

    Raises:
        RunFailed: it is not.
    """
    layout = Layout.of(options)
    trainer = TorchTrainer(
        work,
        train_loop_config=packed(job, options, monitor, layout.cpus),
        torch_config=TorchConfig(backend="nccl" if layout.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=layout.workers,
            use_gpu=layout.gpu,
            resources_per_worker={"CPU": layout.cpus, **({"GPU": 1} if layout.gpu else {})},
        ),
        # Ray Train's own records; the run's are in its folder, and so are the checkpoints that attempts go on from.
        run_config=RunConfig(
            storage_path=options.out.rstrip("/") + "/ray", failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        return _what_was_lost(error.worker_failures)
    except ray.train.ControllerError as error:
        return f"the controller: {error.controller_failure}"
    return None


def _what_was_lost(failures: dict[int, Exception]) -> str:
    """Words for a loss that another attempt may mend.

    Raises:
        RunFailed: it is an error that would come again.
    """
    causes = {rank: _cause(error) for rank, error in sorted(failures.items())}
    died = [error for error in causes.values() if isinstance(error, RayError)]
    own = [error for error in causes.values() if not isinstance(error, RayError | PeerLost)]
    if own and not died:  # with a rank that died, the others fail in ways of their own
        if isinstance(own[0], EXPECTED):
            raise RunFailed(str(own[0]))
        raise RunFailed(f"{type(own[0]).__name__}: {own[0]}; this is a bug") from own[0]
    return "; ".join(f"rank {rank}: {type(error).__name__}" for rank, error in causes.items())


def _cause(error: Exception) -> BaseException:
    """What Ray Train's own exceptions stand for: an actor's death, or what our code raised."""
    for name in ("health_check_failure", "_base_exc"):
        error = getattr(error, name, error)
    return error


def _show(monitor: Any, display: Display, ended: threading.Event) -> None:
    """Shows the run until it ends; in a thread of its own, because Ray Train's `fit` needs the main one."""
    with display:
        last = False
        while not last:
            last = ended.wait(POLL_S)
            try:
                display.update(*ray.get(monitor.read.remote(), timeout=10))
            except RayError as error:
                logger.debug("the monitor did not answer: %s", error)
