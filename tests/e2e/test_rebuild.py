"""Columns are brought up to date from the store alone: what was lost, damaged or relabelled comes back byte by byte,
and who reads the store meanwhile notices nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
from calm_ingest import CalmIngest, ingest_arguments
from ray_cluster import REPOSITORY, Cluster, run_ingest
from small_clips import MIDS, SmallClips
from store_factory import column_tars

from pipeline.loopback import LoopbackServer
from stores.layout import Store
from stores.reader import Reader
from stores.rebuild import plan_rebuild
from stores.snapshot import Snapshot

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


def an_epoch(snapshot: Snapshot) -> str:
    """Digest of all that a trainer gets in an epoch, in its order."""
    digest = hashlib.sha256()
    for batch in Reader(snapshot, order="uniform", batch_size=5, seed=1, epochs=1):
        digest.update(repr(batch.keys).encode() + batch.multi_hot(snapshot.class_count).tobytes())
        for name in sorted(batch.arrays):
            digest.update(batch.arrays[name].tobytes())
    return digest.hexdigest()


def test_a_training_reads_its_snapshot_while_jobs_change_the_store(
    two_nodes: Cluster, calm_ingest: CalmIngest, small_clips: SmallClips, tmp_path: Path
) -> None:
    """An ingest of corrected labels and of another split, a rebuild of everything, and `gc`, beside the reader."""
    store = tmp_path / "store"
    shutil.copytree(calm_ingest.store, store)
    snapshot = Snapshot.open(str(store), "mine", ["logmel", "r2plus1d_18"])
    calm, found, stop = an_epoch(snapshot), [], threading.Event()

    def train() -> None:
        while not stop.is_set():
            found.append(an_epoch(snapshot))

    corrected, more = tmp_path / "corrected.csv", tmp_path / "more.csv"
    corrected.write_text(small_clips.csv.read_text().replace(MIDS[0], MIDS[1]))
    more.write_text("".join(small_clips.csv.read_text().splitlines(keepends=True)[:6]))
    garbage = store / "media/mine/00000.0123abcd.tar"
    garbage.write_bytes(b"left by a killed job")
    for path in (garbage, store / "media/mine/00000.parquet"):
        os.utime(path, (1, 1))  # long ago
    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        with LoopbackServer(small_clips.media) as server:
            words = ingest_arguments(small_clips, server, store)
            words[words.index("--segments") + 1] = f"mine={corrected}"
            ingested = run_ingest(two_nodes.environment, *words, "--segments", f"more={more}")
            assert ingested.returncode == 0, ingested.stdout + ingested.stderr
            assert len({entry.path for entry in server.log()}) == 3  # nothing of the split that is there
        rebuilt = rebuild(two_nodes, store, "--split", "mine", "--columns", "logmel", "--again", "all")
        assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
        gc = [sys.executable, "-m", "stores", "gc", str(store), "--older-than", "1", "--delete"]
        removed = subprocess.run(gc, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
        assert removed.returncode == 0 and not garbage.exists(), removed.stdout + removed.stderr
    finally:
        stop.set()
        trainer.join()
    assert len(found) > 10 and set(found) == {calm}
    assert an_epoch(Snapshot.open(str(store), "mine", ["logmel", "r2plus1d_18"])) != calm
