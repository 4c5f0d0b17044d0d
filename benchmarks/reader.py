"""How fast does the reader give collated batches, beside `cat`, WebDataset, LitData and MosaicML streaming?

    python benchmarks/reader.py --json benchmarks/results/reader.json

20,000 samples of {log-mel float16 400×64, embedding float16 10×512, json}, batches of 64 with keys and labels, one
process for each reader, page cache warm: each has made a whole pass before anything is timed (in which avlens verifies
every shard). The readers take turns, a pass each, so that a machine that slows down slows them all. The peers are
installed with pip into an environment of their own in the temporary folder.
"""

from __future__ import annotations

import base64
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import IO, Annotated, Any, cast

import numpy as np
import pyarrow as pa
import tyro
from machine import environment_with, hardware

from stores.layout import Store
from stores.manifest import OK, ManifestRow, Sums, commit_manifest
from stores.shards import END_OF_TAR, Sample, member, npy_bytes, write_feature_tar
from stores.specs import Spec, canonical_json
from stores.storage import ABSENT
from stores.summaries import FORMAT
from stores.tables import PLAN_SCHEMA

PEERS = ("litdata==0.2.76", "mosaicml-streaming==0.13.0", "numpy<3")
OURS = (
    "cat",
    "avlens",
    "avlens-2-threads",
    "avlens-uniform",
    "avlens-uniform-2-threads",
    "webdataset",
    "webdataset-shuffled",
)
THEIRS = ("litdata", "litdata-shuffled", "mosaicml", "mosaicml-shuffled")
COLUMNS = (Spec("logmel", "logmel", (400, 64), "float16", {}), Spec("r2plus1d_34", "video", (10, 512), "float16", {}))
SHARD, CLASSES, SPLIT = 512, 527, "bench"
PASSES = Path(__file__).with_name("reader_passes.py")
# What must hold: (what, method, against, at most this many times the other's seconds).
TARGETS = (
    ("in order, at most 2 × cat", "avlens", "cat", 2.0),
    ("shuffled, at most 3 × cat", "avlens-uniform", "cat", 3.0),
    ("in order, webdataset takes at least 20 ×", "avlens", "webdataset", 1 / 20),
    ("in order with two threads, litData takes at least 5 ×", "avlens-2-threads", "litdata", 1 / 5),
)


def main(
    samples: int = 20_000,
    repeats: int = 7,
    peers: Path | None = None,
    folder: Path | None = None,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Read the same samples with every reader in turn, and print a table.

    Args:
        samples: How many; 20,000 take 4 GB of disk for all formats together.
        repeats: Timed passes of each reader.
        peers: An environment that has the peers already; left out, one is made in the temporary folder.
        folder: Where to make the data; left out, the temporary folder.
        json_path: Where to write the figures with the hardware and versions.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        data = Path(temporary)
        python = (peers or environment_with(data / "peers", PEERS)) / "bin/python"
        make_data(data, samples)
        for peer in ("litdata", "mosaicml"):
            command = [str(python), str(PASSES), f"prepare-{peer}", str(data)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        first, runs = measure(data, python, samples, repeats)
        found = {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "webdataset")}}
        versions = found | peer_versions(python)
    results = {method: summary(figures, samples, runs["cat"]) for method, figures in runs.items()}
    targets = [target(results, *row) for row in TARGETS]
    print(table(results, targets))
    if json_path is not None:
        report = {
            "question": "seconds to read 20,000 samples as collated batches of 64, one process, page cache warm",
            "samples": samples,
            "hardware": hardware(),
            "versions": versions,
            "first_pass_seconds": {name: round(seconds, 3) for name, seconds in first.items()},
            "first_pass": "opens and maps the files; avlens verifies every sample's checksum in it and in no later one",
            "results": results,
            "targets": targets,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def measure(
    data: Path, python: Path, samples: int, repeats: int
) -> tuple[dict[str, float], dict[str, list[dict[str, float]]]]:
    """Seconds of each reader's first pass, and the figures of the passes after it, taken in turn."""
    with ExitStack() as stack:
        programs = dict.fromkeys(OURS, Path(sys.executable)) | dict.fromkeys(THEIRS, python)
        readers = {name: stack.enter_context(reader(program, name, data)) for name, program in programs.items()}
        first = {name: one_pass(process, samples)["seconds"] for name, process in readers.items()}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
        for _ in range(repeats):
            for name, process in readers.items():
                runs[name].append(one_pass(process, samples))
    return first, runs


@contextmanager
def reader(program: Path, method: str, data: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that makes a pass for each line it is sent."""
    environment = {**os.environ, "PYTHONPATH": str(PASSES.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [str(program), str(PASSES), method, str(data)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process
    finally:
        cast(IO[str], process.stdin).close()
        process.wait()


def one_pass(process: subprocess.Popen[str], samples: int) -> dict[str, float]:
    """The figures of one pass. Raises SystemExit when it did not read every sample."""
    print("go", file=process.stdin, flush=True)
    for line in cast(IO[str], process.stdout):
        if line.startswith('{"seconds"'):  # libraries print other things
            figures = json.loads(line)
            if figures.get("samples", samples) != samples:
                raise SystemExit(f"{process.args!r} read {figures['samples']} of {samples} samples")
            return figures
    raise SystemExit(f"{process.args!r} ended")


def peer_versions(python: Path) -> dict[str, str]:
    """What the peers' environment has."""
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    names = ("litdata", "mosaicml-streaming")
    return {item["name"]: item["version"] for item in json.loads(listed.stdout) if item["name"] in names}


def make_data(folder: Path, samples: int) -> None:
    """The samples as a store of two columns, and as WebDataset tars that hold both."""
    draw, rng = random.Random(0), np.random.default_rng(0)
    (folder / "tars").mkdir()
    store = Store.open_or_create(str(folder / "store"), shard_size=SHARD)
    rows = [planned_row(number, draw) for number in range(samples)]
    classes = [[f"/m/{index:05x}", str(index)] for index in range(CLASSES)]
    summary = {"format": FORMAT, "split": SPLIT, "segments": samples, "classes": classes}
    store.write_plan(SPLIT, pa.Table.from_pylist(rows, PLAN_SCHEMA), summary)
    for spec in COLUMNS:
        store.write_spec(spec)
    for shard in range(-(-samples // SHARD)):
        part = rows[shard * SHARD : (shard + 1) * SHARD]
        arrays = [rng.standard_normal((len(part), *spec.shape), np.float32).astype(spec.dtype) for spec in COLUMNS]
        for spec, values in zip(COLUMNS, arrays, strict=True):
            commit(store, spec, shard, part, values)
        with open(folder / f"tars/{shard:05d}.tar", "wb") as file:
            for row, *values in zip(part, *arrays, strict=True):
                file.write(member(f"{row['key']}.json", canonical_json(meta(row)).encode()))
                for spec, array in zip(COLUMNS, values, strict=True):
                    file.write(member(f"{row['key']}.{spec.array}.npy", npy_bytes(array)))
            file.write(END_OF_TAR)


def planned_row(number: int, draw: random.Random) -> dict[str, Any]:
    """A segment as AudioSet has them: random id, whole-second start, one to four labels."""
    ytid = base64.urlsafe_b64encode(draw.randbytes(9)).decode()[:11]
    start_ms = 10_000 * draw.randrange(60)
    labels = draw.sample(range(CLASSES), draw.choice((1, 1, 2, 2, 3, 4)))
    return {
        "shard": number // SHARD,
        "position": number % SHARD,
        "key": f"{ytid}_{start_ms}",
        "ytid": ytid,
        "start_ms": start_ms,
        "end_ms": start_ms + 10_000,
        "mids": [f"/m/{label:05x}" for label in labels],
        "labels": labels,
    }


def meta(row: dict[str, Any]) -> dict[str, Any]:
    """A sample's json, as an ingest writes it."""
    names = ("key", "ytid", "start_ms", "end_ms", "mids", "labels")
    flags = {"has_audio": True, "has_video": True, "short": False, "decoded_ms": 10_000}
    return {**{name: row[name] for name in names}, **flags}


def commit(store: Store, spec: Spec, shard: int, rows: Sequence[dict[str, Any]], arrays: np.ndarray) -> None:
    """One column shard: tar and manifest."""
    made = [Sample(row["key"], meta(row), array) for row, array in zip(rows, arrays, strict=True)]
    with store.storage.scratch_file() as scratch:
        facts, places = write_feature_tar(scratch, spec.array, made)
        name = store.column_tar_name(spec.column, SPLIT, shard, facts.digest8)
        store.storage.publish_file(scratch, name)
    names = ("key", "ytid", "start_ms", "end_ms", "mids", "labels")
    described = [
        ManifestRow(status=OK, **{name: row[name] for name in names}, has_audio=True, has_video=True, **asdict(place))
        for row, place in zip(rows, places, strict=True)
    ]
    tar = (name.rsplit("/", 1)[1], facts)
    commit_manifest(store, spec, SPLIT, shard, described, tar, Sums.of(arrays, spec.shape[-1]), "", {}, ABSENT)


def summary(runs: list[dict[str, float]], samples: int, cat_runs: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the passes; times cat is the median of the ratios within each round."""
    seconds = statistics.median(run["seconds"] for run in runs)
    ratios = [run["seconds"] / cat_run["seconds"] for run, cat_run in zip(runs, cat_runs, strict=True)]
    return {
        "seconds": round(seconds, 4),
        "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in runs), 4),
        "samples_per_second": round(samples / seconds),
        "times_cat": round(statistics.median(ratios), 2),
        "seconds_of_every_run": [round(run["seconds"], 4) for run in runs],
    }


def target(results: dict[str, Any], what: str, method: str, against: str, most: float) -> dict[str, Any]:
    """Whether a target was met: the median of the ratios of passes that followed one another."""
    pairs = zip(results[method]["seconds_of_every_run"], results[against]["seconds_of_every_run"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return {"target": what, "ratio": round(ratio if most >= 1 else 1 / ratio, 2), "met": ratio <= most}


def table(results: dict[str, Any], targets: list[dict[str, Any]]) -> str:
    """The results as lines of text."""
    lines = [f"{'':24}{'s':>9}{'cpu s':>9}{'samples/s':>12}{'× cat':>8}"]
    for method, found in results.items():
        figures = f"{found['seconds']:>9.3f}{found['cpu_seconds']:>9.3f}{found['samples_per_second']:>12,}"
        lines.append(f"{method:24}{figures}{found['times_cat']:>8.2f}")
    lines += [f"{row['target']}: {row['ratio']}, {'met' if row['met'] else 'NOT met'}" for row in targets]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
