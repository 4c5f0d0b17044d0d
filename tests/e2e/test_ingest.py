"""The whole job as an operator runs it, on a real Ray cluster of two nodes, against a real HTTP server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from calm_ingest import CalmIngest
from ray.util.state import list_tasks
from ray_cluster import BIN, REPOSITORY, Cluster, run_ingest
from small_clips import SmallClips, write_list
from store_factory import column_tars

from pipeline.loopback import LoopbackServer, Route, html_page


def ledger(store: Path, split: str = "mine") -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted(store.glob(f"media/{split}/*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def test_ingest_from_http_then_again_then_with_another_column(
    two_nodes: Cluster, small_clips: SmallClips, calm_ingest: CalmIngest, tmp_path: Path
) -> None:
    first, store = calm_ingest.result, tmp_path / "store"
    assert first.returncode == 0, first.stdout + first.stderr
    assert "planned 12 = fetched 12 + failed 0 + pending 0" in first.stdout
    assert calm_ingest.openings == {f"/{ytid}.mp4": 1 for ytid in small_clips.ytids}
    assert calm_ingest.requests == 12

    shutil.copytree(calm_ingest.store, store)
    words = calm_ingest.words_for(store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    began = time.monotonic()
    second = run_ingest(two_nodes.environment, *words)
    assert second.returncode == 0
    assert time.monotonic() - began < 60  # without starting anything, however busy the machine is
    assert "this run: nothing to do" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before

    # The server is gone: not one clip can be fetched since the first run.
    tars = column_tars(store)
    third = run_ingest(two_nodes.environment, *words, "--encoder-dtype", "float32")
    assert third.returncode == 0, third.stdout + third.stderr
    new = set(column_tars(store)) - set(tars)
    assert {name.split("/")[1].rsplit("-", 1)[0] for name in new} == {"r2plus1d_18"}
    assert len(new) == 4
    assert tars.items() <= column_tars(store).items()

    samples = list(
        wds.WebDataset([str(store / name) for name in tars if "logmel" in name], shardshuffle=False).decode()
    )
    assert sorted(sample["__key__"] for sample in samples) == sorted(small_clips.keys)
    for sample in samples:
        assert (sample["logmel.npy"].shape, sample["logmel.npy"].dtype) == ((400, 64), np.float16)
        assert sample["json"]["key"] == sample["__key__"]


FAULTS = {
    "gone_404": (Route(status=404), "failed", "gone"),
    "gone_410": (Route(status=410), "failed", "gone"),
    "forbidden_403": (Route(status=403), "failed", "unreachable"),
    "throttled_429": (Route(status=429, retry_after="3"), "pending", "throttled"),
    "broken_500": (Route(status=500), "failed", "unreachable"),
    "hanging": (Route(hang=True), "failed", "unreachable"),
    "html_as_mp4": (html_page("video/mp4"), "failed", "unreachable"),
    "html": (html_page(), "failed", "unreachable"),
    "empty": (Route(data=b""), "failed", "unreachable"),
    "text_as_mp4": (Route(data=b"just text, no media\n" * 40, content_type="video/mp4"), "failed", "undecodable"),
}


def test_every_failure_ends_as_the_table_says_and_none_hangs(
    two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path
) -> None:
    whole = (small_clips.media / f"{small_clips.ytids[0]}.mp4").read_bytes()
    routes = {f"/{name}.mp4": route for name, (route, _, _) in FAULTS.items()}
    routes["/cut_transfer.mp4"] = Route(data=whole, truncate_at=len(whole) // 2)
    routes["/octets.mp4"] = Route(data=whole, content_type="application/octet-stream")
    routes["/half.mp4"] = Route(data=whole[: len(whole) // 2])
    routes["/fine.mp4"] = Route(data=whole)
    names = (*FAULTS, "cut_transfer", "octets", "half", "fine")
    csv = write_list(tmp_path / "list.csv", names)
    with LoopbackServer(routes=routes) as server:
        result = run_ingest(
            two_nodes.environment,
            *("--segments", f"mine={csv}", "--source", f"http:{server.url}/{{ytid}}.mp4"),
            *("--store", str(tmp_path / "store"), "--retry-delay", "0.1", "--read-timeout", "2", "--wait", "4"),
            *("--fetch-threads", "16"),
        )
    assert result.returncode == 1, result.stdout + result.stderr
    rows = ledger(tmp_path / "store")
    found = {name: (rows[f"{name}_0"]["status"], rows[f"{name}_0"]["cause"]) for name in names}
    expected = {name: (status, cause) for name, (_, status, cause) in FAULTS.items()}
    expected |= {"cut_transfer": ("failed", "unreachable"), "octets": ("fetched", None), "fine": ("fetched", None)}
    expected["half"] = ("failed", "undecodable")  # its index was in the half that is missing
    assert found == expected
    assert {row["attempts"] for row in rows.values() if row["cause"] == "unreachable"} == {3}
    assert all(row["words"] for row in rows.values() if row["status"] != "fetched")


@pytest.fixture
def job_arguments(small_clips: SmallClips, tmp_path: Path) -> list[str]:
    return [
        *("--segments", f"mine={small_clips.csv}", "--source", f"dir:{small_clips.media}"),
        *("--store", str(tmp_path / "store"), "--shard-size", "3"),
    ]


def submit(two_nodes: Cluster, repository: Path, *entry: str):
    command = [str(BIN / "ray"), "job", "submit", "--working-dir", str(repository), "--", *entry]
    environment = {**two_nodes.environment, "RAY_ADDRESS": f"http://127.0.0.1:{two_nodes.dashboard_port}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def column_tasks(two_nodes: Cluster) -> dict[str, str]:
    """Column tasks that the cluster ever ran, and the node of each."""
    address = f"http://127.0.0.1:{two_nodes.dashboard_port}"
    tasks = list_tasks(address, [("name", "=", "column_task"), ("state", "=", "FINISHED")], limit=1000)
    return {task.task_id: task.node_id for task in tasks}


def test_submitted_as_a_job_it_spreads_over_both_nodes(
    two_nodes: Cluster, repository: Path, job_arguments: list[str], tmp_path: Path
) -> None:
    before = column_tasks(two_nodes)
    result = submit(two_nodes, repository, "python", "pipeline/ingest.py", *job_arguments, "--columns", "logmel")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "planned 12 = fetched 12" in result.stdout
    assert len(list((tmp_path / "store").glob("features/*/mine/*.parquet"))) == 4
    new = {task: node for task, node in column_tasks(two_nodes).items() if task not in before}
    assert len(new) == 4
    assert len(set(new.values())) == 2


def test_relative_paths_inside_a_job_are_refused_with_the_remedy(
    two_nodes: Cluster, repository: Path, job_arguments: list[str]
) -> None:
    arguments = [*job_arguments]
    arguments[arguments.index("--store") + 1] = "./store"
    result = submit(two_nodes, repository, "pipeline/ingest.py", *arguments)  # by the bare file, as some type it
    assert result.returncode != 0
    assert "--store ./store is relative" in result.stdout + result.stderr
    assert "absolute" in result.stdout + result.stderr


def test_usage_errors_are_one_line_and_exit_code_2(two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path) -> None:
    base = [
        "--segments",
        f"mine={small_clips.csv}",
        "--source",
        f"dir:{small_clips.media}",
        "--store",
        str(tmp_path / "s"),
    ]
    for extra, words in (
        (["--columns", "r2plus1d_34"], "needs --encoder-weights"),
        (["--labels", str(small_clips.csv)], "list.csv"),
    ):
        result = run_ingest(two_nodes.environment, *base, *extra)
        assert result.returncode == 2, result.stdout + result.stderr
        assert words in result.stderr
        assert "Traceback" not in result.stderr


def test_tasks_that_are_abandoned_leave_no_traceback(two_nodes: Cluster) -> None:
    """The job ends with one line on the first shard that cannot go on; Ray would add what became of the others."""
    words = [sys.executable, "-c", ABANDONING]
    told = {}
    for end in ("abandon", "forget"):
        environment = {**two_nodes.environment, "END": end}
        done = subprocess.run(
            words, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        told[end] = done.stderr.count("No space left")
    assert told["abandon"] == 0
    assert told["forget"] > 0  # that is what it is for


ABANDONING = """
import os, time, ray
from pipeline.engine import abandon
ray.init(logging_level="error", log_to_driver=False)
@ray.remote(max_retries=0)
def fail():
    raise OSError(28, "No space left on device")
@ray.remote
def sleep():
    time.sleep(60)
def run():
    failing = [fail.remote() for _ in range(3)]
    time.sleep(3)  # they have failed, and nobody has looked
    began = time.monotonic()
    if os.environ["END"] == "abandon":
        abandon([*failing, sleep.remote()])
    assert time.monotonic() - began < 20
run()
time.sleep(1)
"""
