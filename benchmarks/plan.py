"""How long does it take, and how much memory, to read and plan AudioSet's largest list?

    python benchmarks/plan.py unbalanced_train_segments.csv.gz --json benchmarks/results/plan.json

Without a CSV it plans a synthetic one of the same form and length. The peer is what one would write without Arrow:
Python's csv module into a list of tuples, sorted by the same hash, with none of the checks. Every run is a process
of its own, so that its peak memory (resident, imports included) is its own too. Seconds exclude imports.
"""

from __future__ import annotations

import base64
import csv
import gzip
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import tyro
from machine import hardware

SYNTHETIC_ROWS = 2_041_789
SEED, SHARD_SIZE = 0, 512
METHODS = {"avlens": "pipeline: read_segments + make_plan", "peer": "csv module + sorted, no checks"}
PACKAGES = ("pyarrow", "numpy", "xxhash")


def main(
    csv_path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(name="csv")] = None,
    repeats: int = 5,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    once: Literal["avlens", "peer"] | None = None,
) -> None:
    """Read and plan a segment list several times, and print a table.

    Args:
        csv_path: A list in AudioSet's form, plain or gzipped; left out, a synthetic one.
        repeats: Runs of each method.
        json_path: Where to write the figures with the hardware and versions.
        once: Run one method in this process and print its figures; this is how the benchmark calls itself.
    """
    if once is not None:
        if csv_path is None:
            raise SystemExit("--once needs a CSV")
        print(json.dumps(run_once(once, csv_path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = csv_path or write_synthetic(Path(folder) / "synthetic.csv")
        runs = {method: [run_apart(method, path) for _ in range(repeats)] for method in METHODS}
    results = {method: summary(found) for method, found in runs.items()}
    print(table(results, "synthetic list" if csv_path is None else csv_path.name))
    if json_path is not None:
        report = {
            "question": "seconds and memory to read and plan AudioSet's largest segment list",
            "list": "synthetic" if csv_path is None else csv_path.name,
            "hardware": hardware(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "results": results,
        }
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def run_once(method: str, path: Path) -> dict[str, float]:
    """Plan the list in this process: rows, seconds (wall and processor) and peak resident MiB."""
    planner = plan_with_arrow if method == "avlens" else plan_with_csv_module
    rows, seconds, cpu_seconds = planner(path)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib}


def plan_with_arrow(path: Path) -> tuple[int, float, float]:
    """This project's own: every row checked, labels looked up, keys distinct."""
    from pipeline.classes import read_class_list
    from pipeline.plan import make_plan
    from pipeline.segments import read_segments

    start, cpu_start = time.perf_counter(), time.process_time()
    plan = make_plan(read_segments(path, read_class_list()).table, SEED, SHARD_SIZE)
    return len(plan), time.perf_counter() - start, time.process_time() - cpu_start


def plan_with_csv_module(path: Path) -> tuple[int, float, float]:
    """The plain way: the same order, and the rows as Python objects."""
    import xxhash

    start, cpu_start = time.perf_counter(), time.process_time()
    rows = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = (line for line in file if not line.startswith("#"))
        for ytid, begin, end, labels in csv.reader(lines, skipinitialspace=True):
            start_ms = round(float(begin) * 1000)
            key = f"{ytid}_{start_ms}"
            order = xxhash.xxh3_64_intdigest(f"{SEED}:{key}".encode())
            rows.append((order, key, ytid, start_ms, round(float(end) * 1000), labels.split(",")))
    rows.sort()
    return len(rows), time.perf_counter() - start, time.process_time() - cpu_start


def run_apart(method: str, path: Path) -> dict[str, float]:
    """`run_once` in a fresh process."""
    command = [sys.executable, __file__, str(path), "--once", method]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def summary(runs: list[dict[str, float]]) -> dict[str, float | list[float]]:
    """Medians over the runs, the largest peak, and every run's seconds."""
    seconds = statistics.median(run["seconds"] for run in runs)
    return {
        "rows": runs[0]["rows"],
        "seconds": round(seconds, 2),
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 2),
        "rows_per_second": round(runs[0]["rows"] / seconds),
        "peak_mib": round(max(run["peak_mib"] for run in runs)),
        "seconds_of_every_run": [round(run["seconds"], 2) for run in runs],
    }


def table(results: dict[str, dict[str, float | list[float]]], title: str) -> str:
    """The results as lines of text."""
    lines = [f"{title}, shards of {SHARD_SIZE}; medians", f"{'':38}{'rows':>10}{'s':>8}{'rows/s':>10}{'peak MiB':>10}"]
    for method, found in results.items():
        figures = f"{found['rows']:>10}{found['seconds']:>8}{found['rows_per_second']:>10}{found['peak_mib']:>10}"
        lines.append(f"{METHODS[method]:38}{figures}")
    return "\n".join(lines)


def write_synthetic(path: Path, rows: int = SYNTHETIC_ROWS) -> Path:
    """A list of AudioSet's form: random ids and whole-second starts, one to eight labels a row (mean two)."""
    from pipeline.classes import read_class_list

    mids = read_class_list().mids
    draw = random.Random(SEED)
    counts = draw.choices(range(1, 9), weights=(42, 32, 16, 6, 2, 1, 0.5, 0.5), k=rows)
    with path.open("w") as file:
        file.write(f"# Segments csv, synthetic, {rows} rows\n# YTID, start_seconds, end_seconds, positive_labels\n")
        for count in counts:
            ytid = base64.urlsafe_b64encode(draw.randbytes(9)).decode()[:11]
            start = 10 * draw.randrange(60)
            labels = ",".join(draw.sample(mids, count))
            file.write(f'{ytid}, {start}.000, {start + 10}.000, "{labels}"\n')
    return path


if __name__ == "__main__":
    tyro.cli(main)
