"""docs/operators.md, symptom by symptom: each is produced, and the command that it states cures it.

What takes a cluster apart has tests of its own in tests/faults: lost workers, nodes and drivers, two ingests at once.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import ledger_rows, wait_for
from ray_cluster import REPOSITORY, Cluster, ingest_command, run_ingest
from small_clips import SmallClips
from store_factory import column_tars

from pipeline.loopback import LoopbackServer, RequestLimit, Route

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUNBOOK = REPOSITORY / "docs/operators.md"
ELSEWHERE = {
    "The job was killed, or a node was lost": "tests/faults/test_chaos.py",
    "Two ingests were started on one store": "tests/faults/test_races.py",
}
HERE = {
    "Fewer clips come than before": "test_fewer_clips_come_than_before",
    "An address is throttled": "test_an_address_is_throttled",
    "Nothing is committed": "test_nothing_is_committed",
    "Clips crash": "test_clips_crash",
    "The disk is full": "test_the_disk_is_full",
    "A tar or table is damaged": "test_a_tar_or_table_is_damaged",
    "A clip has to go": "test_a_clip_has_to_go",
    "Another machine needs the same clips": "test_another_machine_needs_the_same_clips",
}


class Operator:
    """Who types commands for one store."""

    def __init__(self, cluster: Cluster, clips: SmallClips, store: Path) -> None:
        self.cluster, self.clips, self.store = cluster, clips, store

    def words(self, server: LoopbackServer, *more: str) -> list[str]:
        source = f"http:{server.url}/{{ytid}}.mp4"
        flags = ["--segments", f"mine={self.clips.csv}", "--source", source, "--store", str(self.store)]
        return [*flags, "--shard-size", "3", "--retry-delay", "0.2", "--wait", "5", *more]

    def ingest(self, server: LoopbackServer, *more: str) -> subprocess.CompletedProcess[str]:
        return run_ingest(self.cluster.environment, *self.words(server, *more))

    def stores(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stores", *words]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)

    def rebuild(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(REPOSITORY / "pipeline/rebuild.py"), "--store", str(self.store), *words]
        environment = self.cluster.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)

    def ledger(self) -> dict[str, dict[str, object]]:
        return {str(row["key"]): row for row in ledger_rows(self.store)}

    def all_is_well(self) -> bool:
        if self.stores("verify", str(self.store), "--media").returncode != 0:
            return False
        return {row["status"] for row in self.ledger().values()} == {"fetched"} and len(self.ledger()) == 12


@pytest.fixture
def operator(two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path) -> Operator:
    return Operator(two_nodes, small_clips, tmp_path / "store")


def test_every_symptom_of_the_runbook_is_produced_somewhere() -> None:
    by_symptom = RUNBOOK.read_text().split("## By symptom")[1]
    assert set(re.findall(r"^### (.+)$", by_symptom, re.MULTILINE)) == {*HERE, *ELSEWHERE}
    assert all(callable(globals()[name]) for name in HERE.values())
    assert all((REPOSITORY / path).exists() for path in ELSEWHERE.values())


def test_fewer_clips_come_than_before(operator: Operator) -> None:
    broken = [f"/{ytid}.mp4" for ytid in operator.clips.ytids[:3]]
    gone = f"/{operator.clips.ytids[5]}.mp4"
    with LoopbackServer(operator.clips.media, {path: Route(status=500) for path in broken}) as server:
        server.set_route(gone, Route(status=404))
        assert operator.ingest(server).returncode == 1
        shown = operator.stores("status", str(operator.store)).stdout
        assert "unreachable 3" in shown and "gone 1" in shown
        failed = operator.stores("failed", str(operator.store)).stdout
        assert failed.count("HTTP status 500") == 3 and failed.count("HTTP status 404") == 1
        for path in (*broken, gone):
            server.set_route(path, Route())
        server.clear_log()
        assert operator.ingest(server, "--retry", "unreachable").returncode == 1  # one is gone
        assert {entry.path for entry in server.log()} == set(broken)
        assert operator.ingest(server, "--retry", "gone").returncode == 0
    assert operator.all_is_well()


def test_an_address_is_throttled(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "egresses.toml").write_text("[runbook]\n")
    more = ["--egresses", str(tmp_path / "egresses.toml")]
    with LoopbackServer(operator.clips.media, limit=RequestLimit(requests=6, window_s=12.0, ban_s=8.0)) as server:
        job = subprocess.Popen(
            ingest_command(*operator.words(server, "--wait", "60", *more)),
            env=operator.cluster.environment,
            stdout=subprocess.DEVNULL,
        )
        journal = f"egress/127.0.0.1-{server.url.rsplit(':', 1)[1]}_runbook.json"
        wait_for((operator.store / journal).exists)
        told = json.loads((operator.store / journal).read_text())
        assert 0 < told["opened_until"] - time.time() < 60  # until when it is shut
        assert job.wait(200) == 0  # tried again by itself
    assert operator.all_is_well()
    # To have less of it: a lower budget of that egress.
    (tmp_path / "egresses.toml").write_text("[runbook-slow]\nvideos_per_hour = 3600\n")
    slow = Operator(operator.cluster, operator.clips, tmp_path / "slow")
    with LoopbackServer(operator.clips.media, limit=RequestLimit(requests=6, window_s=4.0, ban_s=8.0)) as server:
        assert slow.ingest(server, *more).returncode == 0
        assert {entry.status for entry in server.log()} <= {200, 206}


def test_nothing_is_committed(operator: Operator, tmp_path: Path) -> None:
    (tmp_path / "egresses.toml").write_text("[runbook-budget]\nvideos_per_hour = 900\n")
    with LoopbackServer(operator.clips.media) as server:
        words = operator.words(server, "--egresses", str(tmp_path / "egresses.toml"), "--columns", "none")
        words[words.index("--shard-size") + 1] = "12"
        large = subprocess.Popen(ingest_command(*words), env=operator.cluster.environment, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(server.log()) >= 4)  # nothing of it is committed
            assert not operator.ledger() and large.poll() is None
            assert "pending: untried 12" in operator.stores("status", str(operator.store)).stdout
        finally:
            large.kill()
            large.wait()
        small = Operator(operator.cluster, operator.clips, tmp_path / "small")
        words = [str(small.store) if word == str(operator.store) else word for word in words]
        words[words.index("--shard-size") + 1] = "1"
        server.clear_log()
        often = subprocess.Popen(ingest_command(*words), env=operator.cluster.environment, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: len(small.ledger()) >= 2)
            assert len(server.log()) < 12
        finally:
            often.kill()
            often.wait()


def test_clips_crash(operator: Operator) -> None:
    with LoopbackServer(operator.clips.media) as server:
        done = operator.ingest(server, "--seconds-per-clip", "0.001")
    assert done.returncode == 1 and "crashed" in done.stdout
    assert "crashed" in operator.stores("failed", str(operator.store)).stdout
    cured = operator.rebuild("--again", "crashed", "--seconds-per-clip", "60")
    assert cured.returncode == 0, cured.stdout + cured.stderr
    assert "crashed" not in operator.stores("failed", str(operator.store)).stdout
    assert operator.all_is_well()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs to be allowed to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_the_disk_is_full(operator: Operator, small_disk: Path) -> None:
    operator.store = small_disk / "store"
    with LoopbackServer(operator.clips.media) as server:
        assert operator.ingest(server, "--columns", "none").returncode == 0
        garbage = next(operator.store.glob("media/mine/00000.*.tar")).with_name("00000.0123abcd.tar")
        room = shutil.disk_usage(small_disk).free
        garbage.write_bytes(bytes(room - 40_000))  # as a killed job leaves it
        for path in (garbage, *operator.store.glob("media/mine/*.parquet")):
            os.utime(path, (1, 1))  # some time ago
        full = operator.ingest(server)
        said = full.stdout + full.stderr
        assert full.returncode == 3 and "No space left on device (8 tries)" in full.stderr, said
        assert str(small_disk) in full.stderr and "Traceback" not in said and 'File "' not in said
        assert operator.all_is_well()
        may_go = operator.stores("gc", str(operator.store), "--older-than", "1")
        assert garbage.name in may_go.stdout and garbage.exists()
        assert operator.stores("gc", str(operator.store), "--older-than", "1", "--delete").returncode == 0
        assert not garbage.exists()
        again = operator.ingest(server)
        assert again.returncode == 0, again.stdout + again.stderr
    assert operator.stores("verify", str(operator.store), "--media").returncode == 0


def test_a_tar_or_table_is_damaged(operator: Operator) -> None:
    with LoopbackServer(operator.clips.media) as server:
        assert operator.ingest(server).returncode == 0
        before = column_tars(operator.store)
        tar = sorted(operator.store.glob("features/*/mine/00001.*.tar"))[0]
        data = bytearray(tar.read_bytes())
        data[len(data) // 2] ^= 255
        tar.write_bytes(data)
        named = operator.stores("verify", str(operator.store))
        assert named.returncode == 1 and "00001" in named.stdout
        tar.with_name("00001.parquet").unlink()
        rebuilt = operator.rebuild()
        assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
        assert operator.stores("verify", str(operator.store)).returncode == 0
        assert column_tars(operator.store) == before
        ledger = operator.store / "media/mine/00002.parquet"
        ledger.write_bytes(ledger.read_bytes()[:500])
        status = operator.stores("status", str(operator.store))
        assert status.returncode != 0 and "media/mine/00002.parquet" in status.stdout + status.stderr
        assert "Traceback" not in status.stderr
        ledger.rename(operator.store.parent / "damaged.parquet")
        server.clear_log()
        anew = operator.ingest(server)
        assert anew.returncode == 0, anew.stdout + anew.stderr
        assert len({entry.path for entry in server.log()}) == 3
    assert operator.all_is_well()


def test_a_clip_has_to_go(operator: Operator) -> None:
    key = operator.clips.keys[4]
    with LoopbackServer(operator.clips.media) as server:
        assert operator.ingest(server).returncode == 0
        gone = operator.stores("forget", str(operator.store), key)
        assert gone.returncode == 0, gone.stdout + gone.stderr
        server.clear_log()
        operator.ingest(server, "--retry", "gone")
        assert server.log() == []  # never fetched again
    assert operator.stores("verify", str(operator.store), "--media").returncode == 0
    row = operator.ledger()[key]
    assert row["status"] == "failed"
    held = [path for path in operator.store.rglob("*.tar") if key.encode() in path.read_bytes()]
    assert held == []


def test_another_machine_needs_the_same_clips(operator: Operator, tmp_path: Path) -> None:
    other = Operator(operator.cluster, operator.clips, tmp_path / "other")
    missing = {operator: operator.clips.ytids[1], other: operator.clips.ytids[7]}
    for who, ytid in missing.items():
        with LoopbackServer(operator.clips.media, {f"/{ytid}.mp4": Route(status=404)}) as server:
            assert who.ingest(server).returncode == 1
        written = who.stores("inventory", str(who.store), "--to", f"{who.store}.inventory")
        assert written.returncode == 0, written.stdout + written.stderr
    lists = [f"{who.store}.inventory" for who in missing]
    both = tmp_path / "both.csv"
    compared = operator.stores(
        "inventory", "--compare", *lists, "--split", "mine", "--feature", "logmel", "--to", str(both)
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    rows = [row for row in csv.reader(both.read_text().splitlines()) if not row[0].startswith("#")]
    assert {row[0] for row in rows} == set(operator.clips.ytids) - set(missing.values())
    third = Operator(operator.cluster, SmallClips(operator.clips.media, both, ()), tmp_path / "third")
    with LoopbackServer(operator.clips.media) as server:
        assert third.ingest(server).returncode == 0
    assert len(third.ledger()) == 10
