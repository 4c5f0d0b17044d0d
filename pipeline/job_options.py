"""What the options of jobs on several ranks (training, attacks, evaluations) have alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

from models.arithmetic import Precision
from stores.order import make_order

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Without the marker the last of several would be the only one.
Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
Integers = Annotated[tuple[int, ...], tyro.conf.UseAppendAction]
Floats = Annotated[tuple[float, ...], tyro.conf.UseAppendAction]


def _told(text: str) -> Any:
    return tyro.conf.arg(help=text)


Arithmetic = Annotated[
    Precision,
    _told("Arithmetic: float32, float64, bfloat16 autocast, or auto, which is bfloat16 on GPUs that have it."),
]
Strict = Annotated[bool, _told("A damaged shard is an error; else its clips are left out, named and counted.")]
Workers = Annotated[
    int | None,
    _told(
        "Data-parallel workers. Default: one per GPU of the cluster, or one on CPUs. The result does not depend on it."
    ),
]
Gpu = Annotated[bool | None, _told("A GPU for each worker. Default: where the cluster has any.")]
CpusPerWorker = Annotated[int, _told("CPUs, and torch threads, of a worker without a GPU.")]
ReaderThreads = Annotated[int, _told("Threads that read ahead in each worker.")]

SEEDS = 10**9  # how many there are

# What may be another when a job goes on: it decides where and how fast, not what comes out.
FREE = ("out", "store", "workers", "gpu", "cpus_per_worker", "reader_threads")


def require(options: DataclassInstance, name: str, holds: bool, expected: str) -> None:
    """Checks an option.

    Raises:
        ValueError: it does not hold; the message names the flag, what was expected and what was got.
    """
    if not holds:
        raise ValueError(f"expected --{name.replace('_', '-')} of {expected}, got {getattr(options, name)}")


def require_seeds(options: DataclassInstance) -> None:
    """Checks that each seed is one that every generator and every folder's name takes."""
    value = getattr(options, "seed")  # noqa: B009 - no protocol
    seeds = value if isinstance(value, tuple) else (value,)
    require(options, "seed", all(0 <= seed < SEEDS for seed in seeds), f"0 to {SEEDS - 1}")


def require_order(options: DataclassInstance) -> None:
    """Checks that there is such an order of clips."""
    make_order(getattr(options, "order"), 0, np.zeros(1), np.array([0, 1]), np.zeros(1))  # noqa: B009 - no protocol


def require_counts(options: DataclassInstance, *names: str) -> None:
    """Checks that each option is None or at least 1, and so are those of the workers."""
    for name in (*names, "workers", "cpus_per_worker"):
        require(options, name, (value := getattr(options, name)) is None or value >= 1, "at least 1")
    require(options, "reader_threads", getattr(options, "reader_threads") >= 0, "0 or more")  # noqa: B009 - no protocol


def require_distinct(options: DataclassInstance, *names: str) -> None:
    """Checks that each option was given, and no value of it twice."""
    for name in names:
        values: Sequence[object] = getattr(options, name)
        require(options, name, 0 < len(values) == len(set(values)), "one or more values, each once")


def decisive(options: DataclassInstance, free: Sequence[str] = ()) -> dict[str, Any]:
    """What decides a job's result, as JSON: all options but `FREE` and those given."""
    values = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in (*FREE, *free)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
