"""Mutated and absurd files: none hangs, none takes more than it may, none harms another, each ends as a row with words.

The long forms have 500 mutated files (`make chaos` runs them too); the short ones run with the other tests.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from chaos import ledger_rows
from hostile_media import honest_files, mutated, oddities
from ray_cluster import Cluster, run_ingest
from small_clips import write_list

from pipeline.decode_process import DecodeJob, DecodeOptions
from pipeline.decoder import Decoder
from pipeline.loopback import LoopbackServer
from pipeline.media import FrameSpec
from stores.layout import Store
from stores.verify import verify

SEED = 20261123
LIMIT_S = 12.0
MEMORY = 1 << 30
OPTIONS = DecodeOptions(
    sample_rate=16_000,
    frames=FrameSpec(fps=8.0, size=32),
    frame_count=80,
    logmel=True,
    seconds_per_clip=LIMIT_S,
    memory_bytes=MEMORY,
)


CHILDREN = ("pipeline.decode_child", "pipeline.cut_child")


class Watch:
    """The most memory that a process that touches media had at any moment.

    Args:
        processes: finds them.
    """

    def __init__(self, processes: Callable[[], list[psutil.Process]]) -> None:
        self.most, self._processes = 0, processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            for process in self._processes():
                try:
                    self.most = max(self.most, process.memory_info().rss)
                except psutil.Error:
                    continue


def jobs(files: list[tuple[str, bytes]]) -> Iterator[DecodeJob]:
    for index, (_, data) in enumerate(files):
        yield DecodeJob(index, f"key{index}_0", data, None, 0, 10_000)


def decode_all(files: list[tuple[str, bytes]]) -> dict[str, str]:
    """By file, how it ended; everything that must hold is asserted."""
    decoder = Decoder(OPTIONS, processes=2)
    found: dict[str, str] = {}
    try:
        with Watch(lambda: psutil.Process().children(recursive=True)) as watch:
            last = time.monotonic()
            for result in decoder.decode(jobs(files)):
                waited, last = time.monotonic() - last, time.monotonic()
                name = files[result.index][0]
                assert name not in found and result.status in ("ok", "undecodable", "crashed")
                assert result.status == "ok" or result.words, name
                # Twice the limit for a suspect, which has to wait for its turn, and a new process for the next one.
                assert waited < 4 * LIMIT_S + 60, name
                if result.logmel is not None:
                    assert result.logmel.shape == (400, 64) and np.isfinite(result.logmel).all(), name
                found[name] = result.status
        assert len(found) == len(files)
        assert watch.most < MEMORY + 1_500_000_000, watch.most  # torch itself, and the frames that are shared
    finally:
        decoder.close()
    return found


@pytest.mark.timeout(900)
def test_some_mutated_files_among_honest_ones(tmp_path: Path) -> None:
    honest = [(f"honest {number}", data) for number, data in enumerate(honest_files(tmp_path))]
    hostile = list(mutated(tmp_path, 72, SEED))
    files = [file for pair in zip(hostile, honest * 9, strict=True) for file in pair]
    files = [(f"{number}: {name}", data) for number, (name, data) in enumerate(files)]
    found = decode_all(files)
    assert {status for name, status in found.items() if "honest" in name} == {"ok"}
    assert {"ok", "undecodable"} <= set(found.values())


@pytest.mark.timeout(900)
def test_what_is_no_clip_at_all_or_far_too_much_of_one(tmp_path: Path) -> None:
    found = decode_all(list(oddities(tmp_path)))
    fine = {name for name, status in found.items() if status == "ok"}
    assert fine <= {
        *("a picture every five seconds", "an hour of sound", "eight channels"),
        *("pictures of 33 megapixels", "thirty thousand pictures"),  # of which ten seconds are five thousand
    }
    assert {"eight channels", "an hour of sound"} <= fine
    assert not Path("/tmp/escaped").exists()


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_five_hundred_mutated_files(tmp_path: Path) -> None:
    found = decode_all(list(mutated(tmp_path, 510, SEED + 1)))
    counts = Counter(found.values())
    assert counts.total() == 510 and counts["ok"] > 50 and counts["undecodable"] > 50


def ingest_all(cluster: Cluster, files: list[tuple[str, bytes]], folder: Path, timeout: float) -> Counter[str]:
    """As clips that a job fetches from a server: how many ended how. Everything that must hold is asserted."""
    ytids = tuple(f"hostile{number:04d}" for number in range(len(files)))
    media = folder / "media"
    media.mkdir()
    for ytid, (_, data) in zip(ytids, files, strict=True):
        (media / f"{ytid}.mp4").write_bytes(data)
    segments = write_list(folder / "list.csv", ytids)
    with LoopbackServer(media) as server, Watch(lambda: cluster.processes(*CHILDREN)) as watch:
        words = ["--segments", f"mine={segments}", "--source", f"http:{server.url}/{{ytid}}.mp4"]
        words += ["--store", str(folder / "store"), "--shard-size", "64", "--retry-delay", "0.2"]
        words += ["--seconds-per-clip", str(LIMIT_S), "--columns", "logmel"]
        done = run_ingest(cluster.environment, *words, timeout=timeout)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback (most recent call last)" not in said, said
    assert 0 < watch.most < DecodeOptions(16_000, None).memory_bytes + 1_500_000_000  # torch itself
    rows = {str(row["key"]): row for row in ledger_rows(folder / "store")}
    assert set(rows) == {f"{ytid}_0" for ytid in ytids}
    assert all(row["words"] and row["cause"] for row in rows.values() if row["status"] == "failed")
    assert {row["status"] for row in rows.values()} == {"fetched", "failed"}
    store = Store.open(str(folder / "store"))
    assert [str(problem) for checked in verify(store, media=True) for problem in checked.problems] == []
    manifests = (folder / "store").glob("features/*/mine/*.parquet")
    features = [row for path in manifests for row in pq.read_table(path).to_pylist()]
    assert len(features) == sum(row["status"] == "fetched" for row in rows.values())
    assert all(row["words"] for row in features if row["status"] != "ok")
    return Counter(str(row["status"]) for row in [*features, *rows.values()] if row["status"] != "fetched")


@pytest.mark.timeout(900)
def test_a_job_among_mutated_files(two_nodes: Cluster, tmp_path: Path) -> None:
    honest = [(f"honest {number}", data) for number, data in enumerate(honest_files(tmp_path))]
    counts = ingest_all(two_nodes, [*honest, *mutated(tmp_path, 90, SEED + 2)], tmp_path, 600)
    assert counts["ok"] >= len(honest) and counts["failed"] > 5


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_job_among_five_hundred_mutated_files(two_nodes: Cluster, tmp_path: Path) -> None:
    counts = ingest_all(two_nodes, [*mutated(tmp_path, 510, SEED + 3), *oddities(tmp_path)], tmp_path, 5000)
    assert counts["ok"] > 50 and counts["failed"] > 50
