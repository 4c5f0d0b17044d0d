"""A real Prometheus scrapes a real ingest: its numbers add up to the ledgers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import requests
import yaml
from ray_cluster import Cluster, free_port, run_ingest
from small_clips import SmallClips

from pipeline.loopback import LoopbackServer, Route

INFRA = Path(__file__).resolve().parents[2] / "infra"


class Prometheus:
    """A running server and its answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query: values by labels, the scrape's own left out."""
        answer = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", answer
        found = {}
        for series in answer["data"]["result"]:
            labels = tuple(sorted(series["metric"].items()))
            found[labels] = float(series["value"][1])
        return found

    def get(self, path: str) -> Any:
        """Some part of its API."""
        return requests.get(f"{self.url}{path}", timeout=10).json()["data"]


@pytest.fixture
def prometheus(two_nodes: Cluster, tmp_path: Path) -> Iterator[Prometheus]:
    """With our rules, scraping both nodes each second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus: it is Debian's package of that name")
    port = free_port()
    targets = [f"127.0.0.1:{metrics_port}" for metrics_port in two_nodes.metrics_ports.values()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(INFRA / "alerts.yml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": targets}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=1).ok:
                    break
            except requests.ConnectionError:
                pass
            assert time.monotonic() < deadline and server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(20)


def by(found: dict[tuple[tuple[str, str], ...], float], *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(dict(series).get(label, "") for label in labels): value for series, value in found.items() if value}


def test_the_counters_add_up_to_the_ledger(
    two_nodes: Cluster, prometheus: Prometheus, small_clips: SmallClips, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    gone, down = (f"/{ytid}.mp4" for ytid in small_clips.ytids[:2])
    routes = {gone: Route(status=404), down: Route(status=503)}  # the one is lost, the other is tried again later
    with LoopbackServer(small_clips.media, routes) as server:
        source = f"http:{server.url}/{{ytid}}.mp4"
        words = ["--segments", f"mine={small_clips.csv}", "--source", source, "--store", str(store)]
        (tmp_path / "egresses.toml").write_text("[test-prometheus]\n")
        words += ["--egresses", str(tmp_path / "egresses.toml"), "--shard-size", "3", "--wait", "10"]
        done = run_ingest(two_nodes.environment, *words)
    assert done.returncode == 1, done.stdout + done.stderr  # one is gone, one is pending
    rows = [row for path in store.glob("media/mine/*.parquet") for row in pq.read_table(path).to_pylist()]
    ledger = Counter((row["status"], row["cause"] or "") for row in rows)

    here = f'{{store="{store}"}}'  # other tests' ingests on this cluster have stores of their own
    deadline = time.monotonic() + 60
    while True:
        shown = by(
            prometheus.ask(f"sum by (status, cause) (last_over_time(ray_avlens_clips{here}[10m]))"), "status", "cause"
        )
        if shown == dict(ledger) or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert shown == dict(ledger)
    outcomes = by(
        prometheus.ask(f"sum by (status, cause) (last_over_time(ray_avlens_outcomes_total{here}[10m]))"),
        "status",
        "cause",
    )
    assert outcomes == {key: count for key, count in ledger.items() if key[0] != "pending"}
    ok = sum(
        pq.read_table(path).column("status").to_pylist().count("ok") for path in store.glob("features/*/mine/*.parquet")
    )
    features = by(prometheus.ask(f"sum by (status) (last_over_time(ray_avlens_column_clips{here}[10m]))"), "status")
    assert features == {("ok",): ok}
    tried = prometheus.ask(f"sum(last_over_time(ray_avlens_fetches_tried_total{here}[10m]))")
    assert list(tried.values()) == [sum(row["attempts"] for row in rows)]

    # Every query of dashboard and alerts is one that Prometheus takes, and what they ask for is there.
    known = set(prometheus.get("/api/v1/label/__name__/values"))
    dashboard = json.loads((INFRA / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            prometheus.ask(target["expr"].replace("$store", str(store)))
    for name in ("clips", "outcomes_total", "breaker", "last_commit_seconds", "shards_in_flight", "store_free_bytes"):
        assert f"ray_avlens_{name}" in known, sorted(name for name in known if "avlens" in name)
    rules = prometheus.get("/api/v1/rules")["groups"][0]["rules"]
    assert len(rules) == 5 and {rule["health"] for rule in rules} <= {"ok", "unknown"}
