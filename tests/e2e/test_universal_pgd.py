"""An attack as a researcher runs it: submitted to two nodes, a worker killed on the way, and run again when done.

The kill is for slow tests: test_train.py has the same for every commit, tests/test_attack.py without a cluster.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from entries import call
from ray_cluster import Cluster, lose_worker, submit
from training_runs import make_training_store, one_thread, small_options

from attacks import universal_pgd
from attacks.attack import attack
from attacks.attack_options import AttackOptions
from models.ranks import Ranks
from pipeline.training import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("attack")
    store = make_training_store(root / "store")
    train(small_options(store, root / "csn", steps=2), Ranks(), torch.device("cpu"))
    return root


def arguments(place: Path, out: Path, *more: str) -> list[str]:
    flags = {"store": place / "store", "checkpoint": place / "csn/best.pt", "fit-split": "train", "out": out}
    flags |= {"select-split": "valid", "alpha": 0.2, "batch-size": 12, "group-size": 2, "passes": 5, "norm": 2}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [*words, "--epsilon", "0.3", "--epsilon", "1", "--checkpoint-every", "2", *more]


def deltas(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "deltas").glob("*.npy"))}


@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_job_makes_the_bits_of_one_process(two_nodes: Cluster, place: Path, tmp_path: Path, killed: bool) -> None:
    out = tmp_path / "job"
    words = arguments(place, out, "--workers", "2", "--cpus-per-worker", "1")
    job = submit(two_nodes, "python", "attacks/universal_pgd.py", *words)
    if killed:
        shown = lose_worker(two_nodes, job, out / "state.npz")
    else:
        shown, _ = job.communicate(timeout=280)
        assert job.returncode == 0, shown[-4000:]
    assert "projected-l2-clip-eps0.3-full-bce-s15213" in shown
    with one_thread():
        store, checkpoint = str(place / "store"), str(place / "csn/best.pt")
        quiet = AttackOptions(
            *(store, checkpoint, ("train",), ("valid",), 0.2, str(tmp_path / "quiet")),
            norm=("2",),
            epsilon=(0.3, 1.0),
            batch_size=12,
            group_size=2,
            passes=5.0,
        )
        attack(quiet, Ranks(), torch.device("cpu"))
    assert len(deltas(out)) == 2
    assert deltas(out) == deltas(tmp_path / "quiet")

    # Again: it is done, and another attack does not fit in.
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
    assert call(universal_pgd.main, *words).code == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
    other = call(universal_pgd.main, *words, "--bound", "2")
    assert other.code == 2 and "holds another run (bound: 3.0 there, 2.0 now)" in other.error
