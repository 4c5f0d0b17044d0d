"""What a failed attempt means, and how workers lie on a cluster. Whole runs on Ray are in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from training_runs import small_options

from models.ranks import PeerLost
from pipeline import trainer
from pipeline.trainer import Layout, RunFailed, _what_was_lost
from pipeline.training_step import NonFiniteLoss


@pytest.mark.parametrize(
    "failures",
    [
        {0: ActorDiedError()},
        {0: PeerLost("rank 0 of 2: connection closed"), 1: ActorDiedError()},
        {0: PeerLost("a"), 1: PeerLost("b")},
        {0: RuntimeError("some library's own word for a broken connection"), 1: ActorDiedError()},
        {0: PeerLost("a"), 1: WorkerHealthCheckFailedError("it does not answer", ActorDiedError())},
        {0: UserExceptionWithTraceback(PeerLost("a"), "trace")},
    ],
)
def test_a_lost_worker_is_worth_another_try(failures: dict[int, Exception]) -> None:
    assert "rank 0" in _what_was_lost(failures)


@pytest.mark.parametrize(
    ("failures", "words"),
    [
        ({0: NonFiniteLoss("step 3: the loss is nan"), 1: NonFiniteLoss("step 3: the loss is nan")}, "step 3"),
        ({0: PeerLost("gone"), 1: ValueError("another run")}, "another run"),
        ({0: KeyError("x"), 1: PeerLost("gone")}, "KeyError.*bug"),
        ({0: UserExceptionWithTraceback(NonFiniteLoss("step 4"), "trace")}, "^step 4$"),
    ],
)
def test_an_error_that_would_come_again_ends_the_run(failures: dict[int, Exception], words: str) -> None:
    with pytest.raises(RunFailed, match=words):
        _what_was_lost(failures)


@pytest.mark.parametrize(
    ("resources", "changes", "expected"),
    [
        ({"CPU": 2.0}, {}, Layout(1, False, 2)),
        ({"CPU": 1.0}, {}, Layout(1, False, 1)),
        ({"CPU": 8.0}, {"workers": 4}, Layout(4, False, 2)),
        ({"CPU": 16.0, "GPU": 4.0}, {}, Layout(4, True, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, {"workers": 2}, Layout(2, True, 1)),
        ({"CPU": 16.0, "GPU": 4.0}, {"gpu": False, "workers": 3, "cpus_per_worker": 4}, Layout(3, False, 4)),
    ],
)
def test_workers_take_what_there_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resources: dict, changes: dict, expected: Layout
) -> None:
    monkeypatch.setattr(trainer.ray, "cluster_resources", lambda: resources)
    assert Layout.of(small_options("store", tmp_path, **changes)) == expected


@pytest.mark.parametrize(
    ("resources", "changes", "lacking"),
    [
        ({"CPU": 2.0}, {"workers": 3}, "CPUs"),
        ({"CPU": 9.0, "GPU": 1.0}, {"workers": 2}, "GPUs"),
        ({}, {"gpu": True}, "GPUs"),
    ],
)
def test_workers_without_a_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, resources: dict, changes: dict, lacking: str
) -> None:
    monkeypatch.setattr(trainer.ray, "cluster_resources", lambda: resources)
    with pytest.raises(RunFailed, match=f"too few {lacking}"):
        Layout.of(small_options("store", tmp_path, **changes))
