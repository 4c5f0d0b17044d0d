"""Two ingests are started on one store by mistake: both end, and the store is that of one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from calm_ingest import CalmIngest, ingest_arguments
from chaos import IN_FLIGHT, ledger_rows, live_tars
from ray_cluster import Cluster, ingest_command
from s3_bucket import s3_bucket
from small_clips import SmallClips

from pipeline.loopback import LoopbackServer
from stores.layout import Store
from stores.verify import verify

pytestmark = pytest.mark.timeout(900)


def race(cluster: Cluster, words: list[str], environment: dict[str, str]) -> None:
    """Two drivers with the same command; each ends well, or names the other's commit and is well the next time."""
    command = ingest_command(*words)
    drivers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)
    ]
    said = [driver.communicate(timeout=600)[0].decode() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert last.returncode == 0 and "this run: nothing to do" in last.stdout, last.stdout + last.stderr


def problems(store: Store) -> list[str]:
    return [str(problem) for checked in verify(store, media=True) for problem in checked.problems]


def test_on_a_disk(two_nodes: Cluster, small_clips: SmallClips, calm_ingest: CalmIngest, tmp_path: Path) -> None:
    with LoopbackServer(small_clips.media, latency_s=0.2) as server:
        words = ingest_arguments(small_clips, server, tmp_path / "store")
        words[words.index("--columns") + 1] = "logmel"
        race(two_nodes, words, two_nodes.environment)
        assert len(server.log()) <= 2 * 12 + 2 * IN_FLIGHT
    assert problems(Store.open(str(tmp_path / "store"))) == []
    assert live_tars(tmp_path / "store") == {n: tar for n, tar in calm_ingest.tars.items() if "logmel" in n}
    rows = ledger_rows(tmp_path / "store")
    assert len(rows) == 12 and {row["status"] for row in rows} == {"fetched"}


@pytest.mark.slow
def test_in_a_bucket(two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path, monkeypatch: Any) -> None:
    """fsspec takes the endpoint from the environment of each driver, and the workers theirs from the job's."""
    with s3_bucket() as options, LoopbackServer(small_clips.media, latency_s=0.2) as server:
        endpoint = options["client_kwargs"]["endpoint_url"]
        access = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": endpoint}
        words = ingest_arguments(small_clips, server, Path("store"))
        words = ["s3://bucket/store" if word == "store" else word for word in words]
        environment = {**two_nodes.environment, **access}
        command = [sys.executable, "-c", DRIVER.format(access=access), *words]
        drivers = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(2)
        ]
        said = [driver.communicate(timeout=600)[0].decode() for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0, 0], said
        assert problems(Store.open("s3://bucket/store", **options)) == []


# Workers of a cluster have its environment, not the driver's: the job says what theirs is.
DRIVER = """
import sys
import ray
ray.init(runtime_env={{"env_vars": {access}}})
sys.argv[0] = "ingest.py"
ray.init = lambda *_, **__: None
from pipeline.ingest import main
sys.exit(main())
"""
