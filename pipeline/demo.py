#!/usr/bin/env python
"""Entry of `make demo`: a small AudioSet of its own, served on loopback, goes through the real jobs on a local Ray."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console

from models.chance import permutation_chance
from models.metrics import evaluate
from pipeline.demo_media import SPECIAL, DemoDataset, make_demo_dataset
from pipeline.demo_scenes import CLASSES
from pipeline.loopback import LoopbackServer, Route
from pipeline.summary import EXIT_INTERRUPTED, interrupt_on_sigterm
from stores.scores import read_scores
from stores.storage import Storage

# What is scaled down from the paper's [10, 512] embeddings of 32 frames at 30 fps by r2plus1d_34 with IG-65M weights.
SMALL = ["--encoder-weights", "random:0", "--window-frames", "8", "--fps", "8", "--frame-size", "64"]
SMALL += ["--encoder-dtype", "float32"]  # a CPU without bfloat16 units takes longer for bfloat16
SMALL += ["--shard-size", "16"]
COLUMNS = "logmel,r2plus1d_18"
GRACE_S, LEAVE_S = 2.0, 10.0  # for a job that was interrupted; for one that was then told to end


def main() -> int:
    """Runs the demo; its exit code is that of the first job that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="demo", type=Path, help="where everything goes (default: %(default)s)")
    folder: Path = parser.parse_args().folder.resolve()
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    interrupt_on_sigterm()

    console.rule("1. A small AudioSet: real H.264/AAC files, lists in AudioSet's form")
    dataset = make_demo_dataset(folder / "dataset")
    describe(console, dataset)

    console.rule("2. Ingest from a loopback server: fetch, log-mel, clip embeddings")
    store = folder / "store"
    study = folder / "study"
    for old in (store, study):  # the demo begins with nothing; the jobs themselves would go on
        shutil.rmtree(old, ignore_errors=True)
    routes = faults(console, dataset)
    with LoopbackServer(dataset.media, routes) as server:
        code = run(console, ingest_command(dataset, server.url, store))
    if code:
        return code

    console.rule("3. Looking in")
    picture = folder / "logmel.png"
    key = next(clip.key for clip in dataset.clips if clip.split == "eval" and not clip.special)
    for command in (["status", str(store)], ["show", str(store), key, "--png", str(picture)]):
        code = code or run(console, [sys.executable, "-m", "stores", *command])
    if code:
        return code

    console.rule("4. A study: recognisers, universal perturbations of their sound, and what those do")
    code = run(console, study_command(store, study))
    if code:
        return code
    for line in table(study / "runs"):
        console.print(line)
    console.print(
        f"\n{time.monotonic() - began:.0f} s. The store: {store}; a clip's log-mel as a picture: {picture}; "
        f"the study's report: {study / 'report' / 'report.html'}.\n"
        "Scaled down to fit two cores and a few minutes: r2plus1d_18 with random weights instead of r2plus1d_34 with "
        "IG-65M's, float32 instead of bfloat16, windows of 8 frames of 64 pixels at 8 fps instead of 32 of 112 at 30, "
        "shards of 16 clips, not 512; recognisers of an eighth of the width, 60 steps of 16 clips, not 25,000 of 300, "
        "attacked for a few passes over a hundred clips. The log-mel bank, the store and the jobs are the real ones."
    )
    return code


def describe(console: Console, dataset: DemoDataset) -> None:
    """Says what the data set holds and which of its clips are odd on purpose."""
    splits = {split: sum(clip.split == split for clip in dataset.clips) for split in dataset.segments}
    classes = {name for clip in dataset.clips for name in clip.classes}
    console.print(f"{len(dataset.clips)} clips ({splits}) of {len(classes)} classes in {dataset.folder}")
    for kind, keys in dataset.special.items():
        console.print(f"  {', '.join(keys)} {SPECIAL[kind]}")


def faults(console: Console, dataset: DemoDataset) -> dict[str, Route]:
    """Three videos that the server does not simply give: two are gone, one is throttled twice."""
    plain = [clip.ytid for clip in dataset.clips if clip.split == "train" and not clip.special]
    gone, removed, throttled = plain[-3:]
    console.print(
        f"The server answers 404 for {gone}, 410 for {removed}, and 429 for {throttled}, the first two times."
    )
    return {
        f"/{gone}.mp4": Route(status=404),
        f"/{removed}.mp4": Route(status=410),
        f"/{throttled}.mp4": Route(status=429, retry_after="1", times=2),
    }


def ingest_command(dataset: DemoDataset, url: str, store: Path) -> list[str]:
    """The ingest as an operator would type it."""
    lists = [part for split, path in dataset.segments.items() for part in ("--segments", f"{split}={path}")]
    source = ["--source", f"http:{url}/{{ytid}}.mp4", "--retry-delay", "1"]
    script = str(Path(__file__).with_name("ingest.py"))
    # Its own nine classes: most of a loss over AudioSet's 527 would be about classes that no clip has.
    source += ["--labels", str(dataset.labels)]
    # Two of the clips are gone for good and the exit code shall be 0 all the same.
    columns = ["--columns", COLUMNS, *SMALL, "--max-failed-fraction", "0.02"]
    return [sys.executable, script, *lists, *source, "--store", str(store), *columns]


def study_command(store: Path, out: Path) -> list[str]:
    """The paper's study, scaled down, as a researcher would type it."""
    script = str(Path(__file__).parents[1] / "attacks" / "study.py")
    what = ["--preset", "icassp2021", "--scale", "demo"]
    return [sys.executable, script, "--store", str(store), "--out", str(out), *what]


def table(runs: Path) -> list[str]:
    """Each recogniser's best validation scores beside chance, and by what its classes can be recognised."""
    cues = {demo_class.mid: demo_class.cue for demo_class in CLASSES}
    lines = [f"{'':8}{'mAP':>7}{'AUC':>7}{'d′':>7}   mAP by sound, by picture, by both; chance: mAP of shuffled labels"]
    for run in sorted(runs.iterdir()):
        model = run.name.rpartition("-s")[0]
        clips = read_scores(Storage(str(run)), "scores/valid+select.parquet")
        found, chance = evaluate(clips.scores, clips.targets), permutation_chance(clips.scores, clips.targets)
        by_cue = {
            cue: np.nanmean([found.ap[i] for i, (mid, _) in enumerate(clips.origin.classes) if cues.get(mid) == cue])
            for cue in ("sound", "picture", "both")
        }
        parts = ", ".join(f"{value:.2f}" for value in by_cue.values())
        band = f"{chance.mean_ap.mean:.2f} ({chance.mean_ap.low:.2f} to {chance.mean_ap.high:.2f})"
        numbers = f"{found.mean_ap:7.3f}{found.mean_auc:7.3f}{found.dprime_of_mean_auc:7.2f}"
        lines.append(f"{model:8}{numbers}   {parts}; chance {band}")
    return lines


def run(console: Console, command: Sequence[str]) -> int:
    """Shows a command and runs it."""
    shown = ["python" if part == sys.executable else part for part in command]
    console.print(f"[bold]$ {' '.join(shown)}[/bold]", markup=True)
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # whoever stops the demo stops its job; Ctrl-C reached both
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.terminate()
            try:  # Popen's own end does not wait for what was interrupted
                process.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
