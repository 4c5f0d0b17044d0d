"""Does the engine stay small and quick on all of AudioSet? Two million planned segments without a network or a decoder.

    python benchmarks/scale.py unbalanced_train_segments.csv.gz --json benchmarks/results/scale.json

The plan, the Ray loop, ledgers, manifests and column tars are the real ones; a shard's fetch gives every clip at once,
without bytes, and its column is a fixed array of four frames of three numbers. So what is left is what the engine
itself costs: seconds for each shard and clip, and the driver's memory, which must not grow. Then the store of two
million rows is asked how it stands (`python -m stores status`), and the same ingest is begun again: what does finding
nothing to do take? Without a CSV a synthetic list of the same length is planned. About 6 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from machine import hardware
from plan import write_synthetic
from rich.console import Console

import pipeline.engine as engine
from pipeline.classes import read_class_list
from pipeline.column_shard import ColumnReport
from pipeline.columns import Column
from pipeline.media_shard import MediaReport
from pipeline.options import IngestOptions
from pipeline.segments import Segment, read_segments
from pipeline.splits import plan_split
from stores.layout import Store
from stores.ledger import FETCHED, LedgerRow, commit_ledger, read_ledger
from stores.manifest import OK, ManifestRow, Sums, commit_manifest, read_manifest
from stores.shards import Sample, write_feature_tar
from stores.specs import Spec
from stores.storage import ABSENT

TINY = Column(Spec("logmel", "logmel", (4, 3), "float16", {"benchmark": "scale"}), sample_rate=16_000)
ARRAY = np.zeros((4, 3), np.float16)
TARGETS = {"status_s": 5.0, "resume_s": 10.0}


@ray.remote(num_cpus=0, max_retries=-1)
def instant_fetch(context: Any, split: str, shard: int, segments: list[Segment], *_: Any) -> MediaReport:
    """Every clip is there at once; the ledger is the real one."""
    store, at = Store.open(context.store), datetime.now(UTC)
    row = LedgerRow(0, "", FETCHED, attempts=1, first_attempt=at, last_attempt=at, origin="dir", extension="mp4")
    row = replace(row, media_sha256="0" * 64, media_bytes=200_000, media_start_ms=0, requests=1)
    rows = [replace(row, position=position, key=segment.key) for position, segment in enumerate(segments)]
    return MediaReport(split, shard, True, commit_ledger(store, split, shard, rows, {}, ABSENT), len(rows))


@ray.remote(num_cpus=1, max_retries=-1)
def instant_columns(
    context: Any, split: str, shard: int, segments: list[Segment], only: Any, labels: str, *_: Any
) -> ColumnReport:
    """Every clip has the same array; tar and manifest are the real ones."""
    store = Store.open(context.store)
    assert read_ledger(store, split, shard) is not None and read_manifest(store, TINY.name, split, shard) is None
    rows = []
    for segment in segments:
        names = {name: getattr(segment, name) for name in ("key", "ytid", "start_ms", "end_ms", "mids", "labels")}
        media = {"media_sha256": "0" * 64, "media_start_ms": 0, "has_audio": True, "has_video": True, "real_rows": 4}
        rows.append(ManifestRow(status=OK, **names, **media))
    samples = [Sample(row.key, {"key": row.key, "labels": list(row.labels)}, ARRAY) for row in rows]
    with store.storage.scratch_file() as scratch:
        facts, places = write_feature_tar(scratch, "logmel", samples)
        path = store.column_tar_name(TINY.name, split, shard, facts.digest8)
        store.storage.publish_file(scratch, path)
    placed = [replace(row, **asdict(place)) for row, place in zip(rows, places, strict=True)]
    tar, sums = (path.rsplit("/", 1)[1], facts), Sums.of((ARRAY for _ in rows), 3)
    summary = commit_manifest(store, TINY.spec, split, shard, placed, tar, sums, labels, {}, ABSENT)
    summary.pop("sums")
    return ColumnReport(split, shard, {TINY.name: summary}, decoded=len(rows))


class Memory:
    """This process's resident memory over a run, in MiB, a reading a second."""

    def __init__(self) -> None:
        self.readings: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(1.0):
            self.readings.append(process.memory_info().rss / 2**20)

    def at(self, share: float) -> float:
        """The reading after that share of the run."""
        return self.readings[min(len(self.readings) - 1, int(share * len(self.readings)))]


def ingest(csv: Path, store: Path) -> tuple[engine.IngestRun, dict[str, float]]:
    """The whole job with instant tasks; the run, and what it took."""
    options = IngestOptions(store=str(store), source="dir:/nowhere", segments=(f"all={csv}",))
    made, classes = Store.open_or_create(options.store), read_class_list()
    began = time.perf_counter()
    split = plan_split(made, "all", read_segments(csv, classes), classes)
    made.write_spec(TINY.spec)
    planned = time.perf_counter() - began
    run = engine.IngestRun(options, made, [split], (TINY,), Console(quiet=True))
    assert run.look()
    began = time.perf_counter()
    with Memory() as memory:
        summary = run.run()
    seconds = time.perf_counter() - began
    assert summary.planned == summary.fetched == len(split.plan) and not sum(summary.stale.values())
    return run, {
        "clips": summary.planned,
        "shards": split.shards,
        "plan_s": round(planned, 1),
        "run_s": round(seconds, 1),
        "ms_per_shard": round(1000 * seconds / split.shards, 1),
        "us_per_clip": round(1e6 * seconds / summary.planned, 1),
        "driver_mib_after_a_tenth": round(memory.at(0.1)),
        "driver_mib_at_the_end": round(memory.at(1.0)),
        "driver_mib_at_most": round(max(memory.readings)),
    }


def status_seconds(store: Path) -> float:
    """Of `python -m stores status`, its process and imports included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "stores", "status", str(store), "--json"]
    shown = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    assert json.loads(shown.stdout)["columns"][0]["stale"] == 0
    return seconds


def resume_seconds(run: engine.IngestRun) -> float:
    """Of finding out that nothing is left to do."""
    began = time.perf_counter()
    assert not engine.IngestRun(run.options, run.store, list(run.splits.values()), run.columns, run.console).look()
    return time.perf_counter() - began


def main() -> None:
    """Runs it and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, help="only so many rows of a synthetic list")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine.fetch_task, engine.column_task = instant_fetch, instant_columns  # type: ignore[assignment]
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
    with tempfile.TemporaryDirectory(prefix="avlens-scale-") as root:
        if arguments.csv is None:
            path = write_synthetic(Path(root, "all.csv"), **({"rows": arguments.rows} if arguments.rows else {}))
        else:
            path = arguments.csv.resolve()
        ray.init(num_cpus=os.cpu_count(), log_to_driver=False, logging_level="error", include_dashboard=False)
        run, found = ingest(path, Path(root, "store"))
        found["status_s"] = round(min(status_seconds(Path(root, "store")) for _ in range(3)), 2)
        found["resume_s"] = round(min(resume_seconds(run) for _ in range(3)), 2)
        ray.shutdown()
        found["store_tables_mb"] = round(sum(p.stat().st_size for p in Path(root, "store").rglob("*.parquet")) / 1e6)
        shutil.rmtree(Path(root, "store"))
    for name, value in found.items():
        words = "met" if value <= TARGETS.get(name, value) else "MISSED"
        print(f"{name:26} {value:>14,}", *([f"  target {TARGETS[name]:g}: {words}"] if name in TARGETS else []))
    if arguments.json:
        report = {
            "question": "what the engine costs on two million segments, and whether the driver's memory grows",
            "list": "synthetic" if arguments.csv is None else arguments.csv.name,
            "hardware": hardware(),
            "versions": {"python": platform.python_version(), "ray": version("ray"), "pyarrow": version("pyarrow")},
            "results": found,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
