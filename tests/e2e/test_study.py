"""A whole study by its entry: killed on the way and taken up again, nothing done twice, and the report at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ray_cluster import BIN, REPOSITORY, Cluster
from training_runs import make_training_store

from attacks.study_config import AttackPlan, ModelPlan, Study

TRAINING = ("--width", "0.03125", "--steps", "4", "--batch-size", "12", "--group-size", "6", "--evaluate-every", "2")
STUDY = Study(
    name="small",
    scale="demo",
    seeds=(1,),
    models=(ModelPlan("csn", "csn"),),
    attacks=(AttackPlan("paper", ("--epsilon", "0.3", "--scope", "clip", "--scope", "frame")),),
    splits={"train": ("train",), "valid": ("valid",), "fit": ("train",), "select": ("valid",), "report": ("valid",)},
    train_flags=TRAINING,
    attack_flags=("--alpha", "0.1", "--batch-size", "24", "--group-size", "12"),
    evaluate_flags=("--noise-draws", "2", "--permutations", "20"),
    gap=False,  # every command takes half a minute, most of it to start
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("study")
    make_training_store(root / "store")
    (root / "config.json").write_text(json.dumps(STUDY.to_dict()))
    return root


# `make demo` runs a whole study too, and the other tests here each of its commands.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_killed_goes_on_to_its_report(two_nodes: Cluster, place: Path) -> None:
    out = place / "out"
    words = ["--store", str(place / "store"), "--out", str(out), "--config", str(place / "config.json")]
    command = [str(BIN / "python"), str(REPOSITORY / "attacks/study.py"), *words, "--cpus-per-worker", "1"]
    first = subprocess.Popen(command, env=two_nodes.environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (out / "runs/csn-s1/summary.json").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    trained = (out / "runs/csn-s1/summary.json").stat().st_mtime_ns
    done = subprocess.run(command, env=two_nodes.environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (out / "runs/csn-s1/summary.json").stat().st_mtime_ns == trained
    lines = [json.loads(line) for line in (out / "commands.jsonl").read_text().splitlines()]
    assert {line["exit_code"] for line in lines} == {0}
    folders = [line["folder"] for line in lines]
    assert len(set(folders)) == len(folders) and folders[-1] == "evaluations/csn-s1"
    for name in ("report.html", "report.md"):
        assert "csn" in (out / "report" / name).read_text()
