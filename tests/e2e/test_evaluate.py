"""An evaluation as a researcher runs it: submitted to two nodes, equal to that of one process, and not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ray_cluster import Cluster, submit
from training_runs import make_training_store, one_thread, small_options

from attacks.attack import attack
from attacks.attack_options import AttackOptions
from attacks.evaluate_options import EvaluateOptions
from attacks.evaluation import evaluate_checkpoints
from models.ranks import Ranks
from pipeline.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    store = make_training_store(root / "store")
    train(small_options(store, root / "late", model="late", steps=2), Ranks(), CPU)
    where = (store, str(root / "late/best.pt"), ("train",), ("valid",), 2.0, str(root / "attack"))
    attack(AttackOptions(*where, epsilon=(8.0,), batch_size=24, group_size=12), Ranks(), CPU)
    return root


@pytest.mark.slow  # test_universal_pgd.py starts its job by the same way
@pytest.mark.timeout(900)
def test_a_job_on_two_nodes_finds_what_one_process_finds(two_nodes: Cluster, place: Path, tmp_path: Path) -> None:
    flags = {"store": place / "store", "checkpoint": place / "late/best.pt", "split": "valid", "out": tmp_path / "job"}
    flags |= {"attack": place / "attack", "noise-draws": 2, "group-size": 4, "workers": 2, "cpus-per-worker": 1}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    job = submit(two_nodes, "attacks/evaluate.py", *words)  # by the bare file, as some type it
    shown, _ = job.communicate(timeout=280)
    assert job.returncode == 0, shown[-4000:]
    assert "attacked" in shown and "chance" in shown
    with one_thread():
        options = EvaluateOptions(
            store=str(place / "store"),
            checkpoint=(str(place / "late/best.pt"),),
            split=("valid",),
            out=str(tmp_path / "here"),
            attack=(str(place / "attack"),),
            noise_draws=2,
            group_size=4,
        )
        evaluate_checkpoints(options, Ranks(), CPU)
    there, here = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("job", "here"))
    for rows in (found["checkpoints"][0]["rows"] for found in (there, here)):
        for row in rows:
            if "constant_share" in row and row["constant_share"] is not None:
                row["constant_share"] = round(row["constant_share"], 9)  # sums of floats over ranks
    assert there == here
