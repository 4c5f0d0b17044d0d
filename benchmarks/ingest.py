"""How much of the machine does the whole ingest use? Clips per second per core of the job against a bare loop.

The job is the real one: Ray, store, ledger, decode processes, tars, manifests, on a folder of clips. The floor is the
same decoding and the same log-mel in one plain process per core, which stores nothing. Ray's start is left out of the
job's time; everything else is in it, so the clips have to be many: starting workers and decode processes, which a job
of weeks pays once, takes some 4 s. Both run in turn, several times, on the same clips; the medians are compared.

    python benchmarks/ingest.py [--clips 240] [--runs 3] [--json benchmarks/results/ingest.json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import ray
from rich.console import Console

import pipeline.engine as engine
from pipeline.classes import read_class_list
from pipeline.column_shard import Embedded
from pipeline.columns import Column, EncoderOptions, build_columns
from pipeline.media import FrameSpec, decode_clip
from pipeline.options import IngestOptions
from pipeline.segments import read_segments
from pipeline.splits import plan_split
from pipeline.weights import EncoderWeights
from stores.layout import Store

TARGET = 0.85
CORES = len(os.sched_getaffinity(0))
OPTIONS = EncoderOptions(EncoderWeights("random:0", seed=0))


class NoEncoder:
    """Takes frames and gives zeros: the job with decoded windows but without the network."""

    def submit(self, frames: np.ndarray) -> int:
        return int(ray.put(frames) is not None)  # the copy into the object store belongs to the job

    def result(self, handle: int) -> Embedded:
        return Embedded(np.zeros((OPTIONS.windows, 512), np.float32), 0.0, "none")


class NoEncoderPool:
    """In place of the encoder's actors."""

    @staticmethod
    def start(column: Column, actors: int | None, gpus_each: float, pools: int) -> NoEncoder:
        return NoEncoder()


def clips_of(folder: Path, count: int) -> list[Path]:
    """`count` files of 640×360 H.264 and AAC at 30 fps, ten seconds each, made once; copies beyond the first few."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"clip{i:07d}.mp4" for i in range(count)]
    for i, path in enumerate(paths):
        if i < 8:
            encode(path, seed=i)
        else:
            shutil.copyfile(paths[i % 8], path)
    return paths


def encode(path: Path, seed: int) -> None:
    """Moving noise-textured picture and coloured noise: about what a phone's video costs to decode."""
    rng = np.random.default_rng(seed)
    canvas = rng.integers(0, 255, (400, 1400, 3)).astype(np.uint8)
    canvas = np.repeat(np.repeat(canvas[::8, ::8], 8, axis=0), 8, axis=1)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as out:
        video = out.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "26"})
        video.width, video.height, video.pix_fmt = 640, 360, "yuv420p"
        audio = out.add_stream("aac", rate=44_100, layout="stereo")
        for i in range(300):
            picture = canvas[i % 40 : i % 40 + 360, 2 * i : 2 * i + 640]
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(video.encode(None))
        sound = (0.2 * np.cumsum(rng.normal(size=(2, 441_000)), axis=1) % 1 - 0.1).astype(np.float32)
        for start in range(0, 441_000, 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + 1024]), "fltp", "stereo")
            frame.sample_rate, frame.pts = 44_100, start
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))


def floor_one(frames: FrameSpec | None, paths: list[Path], began: Any) -> float:
    """One process of the floor: decode and log-mel, one after the other; seconds since all processes were ready."""
    import torch

    from models.frontend import LogMel

    torch.set_num_threads(1)
    module = LogMel()
    out = None if frames is None else np.empty((frames.count(10), frames.size, frames.size, 3), np.uint8)

    def one(path: Path) -> None:
        clip = decode_clip(
            path, start_ms=0, segment_start_ms=0, segment_end_ms=10_000, sample_rate=16_000, frames=frames, out=out
        )
        with torch.inference_mode():
            module(torch.from_numpy(clip.waveform)[None])[0].numpy().astype(np.float16)

    one(paths[0])
    began.wait()
    start = time.perf_counter()
    for path in paths:
        one(path)
    return time.perf_counter() - start


def floor(frames: FrameSpec | None, paths: list[Path]) -> float:
    """Clips per second of one bare process per core."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        barrier = manager.Barrier(CORES)
        work = partial(floor_one, frames, began=barrier)
        with context.Pool(CORES) as pool:
            seconds = pool.map(work, [paths[i::CORES] for i in range(CORES)], chunksize=1)
    return len(paths) / max(seconds)


def job(columns: tuple[Column, ...], folder: Path, csv: Path, store: Path, shard_size: int) -> float:
    """Clips per second of the whole job: planning, files, decoding, features, tars, manifests, summary."""
    shutil.rmtree(store, ignore_errors=True)
    began = time.perf_counter()
    options = IngestOptions(store=str(store), source=f"dir:{folder}", segments=(f"bench={csv}",), shard_size=shard_size)
    made = Store.open_or_create(options.store, options.shard_size)
    classes = read_class_list()
    table = read_segments(csv, classes)
    run = engine.IngestRun(options, made, [plan_split(made, "bench", table, classes)], columns, Console(quiet=True))
    assert run.look()
    summary = run.run()
    seconds = time.perf_counter() - began
    assert summary.exit_code(0.0) == 0, summary.lines()
    return summary.planned / seconds


def compare(name: str, floors: list[float], jobs: list[float]) -> dict[str, Any]:
    """Medians, per core, and their ratio."""
    low, whole = statistics.median(floors), statistics.median(jobs)
    return {
        "what": name,
        "floor_clips_per_s_per_core": round(low / CORES, 2),
        "job_clips_per_s_per_core": round(whole / CORES, 2),
        "ratio": round(whole / low, 3),
        "ratios_of_every_run": [round(j / f, 3) for j, f in zip(jobs, floors, strict=True)],
    }


def main() -> None:
    """Runs both and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=240, help="clips with pictures; five times as many without")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engine.EncoderPool = NoEncoderPool  # type: ignore[assignment, misc]
    logmel, video = build_columns(["logmel", "r2plus1d_34"], lambda _: OPTIONS)
    cases: list[tuple[str, tuple[Column, ...], FrameSpec | None, int]] = [
        ("log-mel", (logmel,), None, 5 * arguments.clips),
        ("log-mel and decoded windows, no encoder", (logmel, video), OPTIONS.frames, arguments.clips),
    ]
    results = []
    # Ray's workers run at niceness 15, the floor does not: whatever else the machine does would count against the job.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
    ray.init(num_cpus=CORES, log_to_driver=False, logging_level="error")
    with tempfile.TemporaryDirectory(prefix="avlens-bench-") as root:
        for name, columns, frames, count in cases:
            folder = Path(root, f"clips{count}")
            paths = clips_of(folder, count)
            csv = Path(root, f"{count}.csv")
            rows = "".join(f'{path.stem}, 0.000, 10.000, "/m/09x0r"\n' for path in paths)
            csv.write_text(
                f"# Segments csv\n# num_segs={count}\n# YTID, start_seconds, end_seconds, positive_labels\n{rows}"
            )
            shard_size = max(1, count // (2 * CORES))
            job(columns, folder, csv, Path(root, "store"), shard_size)  # starts workers and decode processes
            pairs = [
                (floor(frames, paths), job(columns, folder, csv, Path(root, "store"), shard_size))
                for _ in range(arguments.runs)
            ]
            results.append(compare(name, [f for f, _ in pairs], [j for _, j in pairs]))
    ray.shutdown()
    for row in results:
        met = "met" if row["ratio"] >= TARGET else "missed"
        print(
            f"{row['what']}: {row['job_clips_per_s_per_core']} clips/s a core of a floor of "
            f"{row['floor_clips_per_s_per_core']}: {row['ratio']:.2f} (target {TARGET}: {met})"
        )
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({**setting(arguments), "results": results}, indent=2) + "\n")


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """The question, the machine and the versions."""
    import torch

    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "")  # noqa: SIM115
    return {
        "question": "clips per second per core of the whole ingest against a bare loop of the same decoding and mel",
        "hardware": {"processor": model, "cores": CORES},
        "versions": {
            "python": platform.python_version(),
            "ray": ray.__version__,
            "torch": torch.__version__,
            "av": av.__version__,
        },
        "runs": arguments.runs,
    }


if __name__ == "__main__":
    main()
