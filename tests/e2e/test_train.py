"""Training as an operator runs it: a submitted job on two nodes, one of whose workers is killed on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ray_cluster import Cluster, lose_worker, submit
from training_runs import losses, make_training_store, one_thread, small_options

from models.ranks import Ranks
from pipeline.run_folder import BEST, LAST, RunFolder
from pipeline.training import train

STEPS = 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_training_store(tmp_path_factory.mktemp("store"))


def arguments(store: str, out: Path | str, *more: str) -> list[str]:
    """`small_options` as flags."""
    run = ["--train-split", "train", "--valid-split", "valid", "--out", str(out), "--width", "0.03125"]
    run += ["--batch-size", "12", "--group-size", "2", "--evaluate-every", "4", "--set", "dropout=0.5"]
    return ["--store", store, "--model", "csn", *run, "--steps", str(STEPS), *more]


def test_a_job_whose_worker_is_killed_is_the_run_that_nothing_happened_to(
    two_nodes: Cluster, store: str, tmp_path: Path
) -> None:
    out = tmp_path / "job"
    workers = ["--workers", "2", "--cpus-per-worker", "1"]
    job = submit(two_nodes, "python", "pipeline/train.py", *arguments(store, out, *workers))
    lose_worker(two_nodes, job, out / LAST)
    assert len(losses(out)) == STEPS  # each step once
    with one_thread():
        quiet = replace(small_options(store, tmp_path / "quiet"), steps=STEPS, evaluate_every=4, set=("dropout=0.5",))
        train(quiet, Ranks(), torch.device("cpu"))
    assert losses(out) == losses(tmp_path / "quiet")
    for name in (LAST, BEST):
        one, other = (RunFolder(str(folder)).read(name) for folder in (out, tmp_path / "quiet"))
        assert one is not None
        assert other is not None
        assert one.digest == other.digest
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == STEPS
