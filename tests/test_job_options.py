"""What the options of jobs have alike: what decides a result, and the words for what cannot be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipeline.job_options import FREE, decisive, require, require_counts, require_distinct


@dataclass(frozen=True)
class Options:
    out: str = "/out"
    store: str = "/store"
    workers: int | None = None
    gpu: bool | None = None
    cpus_per_worker: int = 2
    reader_threads: int = 1
    batch_size: int = 12
    fit_split: tuple[str, ...] = ("train",)
    shown_every: int = 5


def test_all_decides_but_where_and_how_fast() -> None:
    assert decisive(Options(), ("shown_every",)) == {"batch_size": 12, "fit_split": ["train"]}
    assert set(decisive(Options())) | set(FREE) == set(Options.__dataclass_fields__)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(batch_size=0), "expected --batch-size of at least 1, got 0"),
        (Options(workers=0), "expected --workers of at least 1, got 0"),
        (Options(cpus_per_worker=-1), "expected --cpus-per-worker of at least 1, got -1"),
        (Options(reader_threads=-1), "expected --reader-threads of 0 or more, got -1"),
    ],
)
def test_a_count_below_one_is_named_by_its_flag(options: Options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        require_counts(options, "batch_size")


def test_none_and_one_are_counts() -> None:
    require_counts(Options(workers=None, batch_size=1, reader_threads=0), "batch_size")


@pytest.mark.parametrize("given", [(), ("train", "train")])
def test_several_are_one_or_more_each_once(given: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected --fit-split of one or more values, each once"):
        require_distinct(Options(fit_split=given), "fit_split")
    require_distinct(Options(fit_split=("a", "b")), "fit_split")


def test_what_holds_passes() -> None:
    require(Options(), "out", True, "a folder")
