"""Columns are brought up to date from the store alone: what was lost, damaged or relabelled comes back byte by byte."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from calm_ingest import CalmIngest
from ray_cluster import REPOSITORY, Cluster
from store_factory import column_tars

from stores.layout import Store
from stores.rebuild import plan_rebuild

WEIGHTS = ("--encoder-weights", "random:0")


def rebuild(cluster: Cluster, store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "pipeline/rebuild.py"), "--store", str(store), *words]
    return subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=240, check=False)


def test_what_was_lost_comes_back_without_a_fetch(two_nodes: Cluster, calm_ingest: CalmIngest, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(calm_ingest.store, store)
    before = column_tars(store)
    lost = sorted(store.glob("features/*/mine/00001.*.tar"))
    assert len(lost) == 2
    for path in lost:
        path.unlink()
    gone = next(store.glob("features/logmel-*/mine/00003.parquet"))
    gone.unlink()
    damaged = next(store.glob("features/logmel-*/mine/00002.*.tar"))
    data = bytearray(damaged.read_bytes())
    data[2000] ^= 1
    damaged.write_bytes(data)
    assert len(list(plan_rebuild(Store.open(str(store))))) == 3  # a flipped bit is found by reading only

    done = rebuild(two_nodes, store, *WEIGHTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(plan_rebuild(Store.open(str(store)))) == []
    forced = rebuild(two_nodes, store, "--columns", "logmel", "--shards", "2", "--again", "all")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    assert column_tars(store) == before
    idle = rebuild(two_nodes, store, *WEIGHTS)
    assert idle.returncode == 0 and "this run: nothing to do" in idle.stdout


def test_what_cannot_be_made_is_said(two_nodes: Cluster, calm_ingest: CalmIngest, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(calm_ingest.store, store)
    for words, said in (
        ((), "needs --encoder-weights"),
        (("--encoder-weights", "random:1"), "other constants"),
        (("--columns", "mfcc"), "no column 'mfcc'"),
        (("--split", "train", *WEIGHTS), "has no split train"),
    ):
        refused = rebuild(two_nodes, store, *words)
        assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr
    for path in store.glob("media/mine/00000.*.tar"):
        path.unlink()
    next(store.glob("features/logmel-*/mine/00000.parquet")).unlink()
    failed = rebuild(two_nodes, store, "--columns", "logmel")
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "exit code 1: 1 column shards" in failed.stdout and "restore it" in failed.stdout + failed.stderr
    rows = [row for path in store.glob("media/mine/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {row["status"] for row in rows} == {"fetched"}
