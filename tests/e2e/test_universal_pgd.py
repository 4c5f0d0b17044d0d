"""An attack as a researcher runs it: submitted to two nodes, a worker killed on the way, and run again when done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ray_cluster import Cluster, lose_worker, run_entry, submit
from training_runs import make_training_store, one_thread, small_options

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


def test_a_job_whose_worker_is_killed_makes_the_same_bits(two_nodes: Cluster, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "job"
    words = arguments(place, out, "--workers", "2", "--cpus-per-worker", "1")
    job = submit(two_nodes, "python", "attacks/universal_pgd.py", *words)
    shown = lose_worker(job, out / "state.npz")
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

    # Again, by the file's bare name: it is done.
    before = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))}
    again = submit(two_nodes, "attacks/universal_pgd.py", *words)
    shown, _ = again.communicate(timeout=200)
    assert again.returncode == 0, shown[-4000:]
    assert {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*"))} == before
    other = submit(two_nodes, "attacks/universal_pgd.py", *words, "--bound", "2")
    shown, _ = other.communicate(timeout=200)
    assert other.returncode != 0 and "holds another run (bound: 3.0 there, 2.0 now)" in shown


def test_what_cannot_be_is_refused_before_anything_starts(place: Path, tmp_path: Path) -> None:
    for words, said in (
        (["--fit-split", "test"], "has no split test"),
        (["--checkpoint", str(place / "none.pt")], "no such file"),
        (["--checkpoint", str(place / "store/store.json")], "no readable checkpoint"),
        (["--freq", "9:3"], "freq band"),
    ):
        found = run_entry("attacks/universal_pgd.py", *arguments(place, tmp_path / "out"), *words)
        assert found.returncode == 2, found.stderr
        assert said in found.stderr and "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_that_hears_nothing_is_refused(place: Path, tmp_path: Path) -> None:
    options = small_options(str(place / "store"), tmp_path / "video", model="video", steps=2)
    train(options, Ranks(), torch.device("cpu"))
    words = [*arguments(place, tmp_path / "out"), "--checkpoint", str(tmp_path / "video/best.pt")]
    found = run_entry("attacks/universal_pgd.py", *words)
    assert found.returncode == 2 and "hears nothing" in found.stderr
    assert json.loads((tmp_path / "video/summary.json").read_text())["steps"] == 2
