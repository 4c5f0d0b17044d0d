"""Real processes are killed while an ingest runs; afterwards the store is as if nothing had happened."""

from __future__ import annotations

import random
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from calm_ingest import CalmIngest, ingest_arguments
from chaos import IN_FLIGHT, ledger_rows, live_tars, wait_for
from ray_cluster import Cluster, cluster, ingest_command, run_ingest
from small_clips import SmallClips

from pipeline.loopback import LoopbackServer, Route
from stores.layout import Store
from stores.verify import verify


def assert_whole(store: Path, clips: SmallClips) -> None:
    """The invariants of DESIGN section 4, by reading everything again."""
    checked = verify(Store.open(str(store)), media=True)
    assert [str(problem) for part in checked for problem in part.problems] == []
    rows = [row for path in store.glob("media/mine/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(clips.keys)
    assert {row["status"] for row in rows} == {"fetched"}
    assert not list((store / "spool").rglob("*.tar"))


# Other tests run beside these on the same cores: what takes a minute alone may take several.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def calm(calm_ingest: CalmIngest, small_clips: SmallClips) -> dict[str, str]:
    """The column tars of an ingest that nobody disturbed."""
    assert calm_ingest.result.returncode == 0, calm_ingest.result.stdout + calm_ingest.result.stderr
    assert_whole(calm_ingest.store, small_clips)
    return calm_ingest.tars


def test_driver_worker_and_encoder_killed(
    two_nodes: Cluster, small_clips: SmallClips, calm: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    dice = random.Random(20261123)
    with LoopbackServer(small_clips.media, latency_s=0.4) as server:
        command = ingest_command(*ingest_arguments(small_clips, server, store))

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                command, env=two_nodes.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

        first, second = dice.randint(1, 5), dice.randint(8, 11)
        # Three random moments: two while clips are fetched, one while columns are computed.
        moments: list[Callable[[], object]] = [
            lambda: len(server.log()) >= first,
            lambda: len(server.log()) >= second,
            lambda: list(store.glob("features/logmel-*/mine/*.parquet")),
        ]
        for moment in moments:
            driver = start()
            wait_for(lambda moment=moment, driver=driver: moment() or driver.poll() is not None)
            time.sleep(dice.uniform(0, 0.3))
            driver.kill()
            driver.wait()
            wait_for(lambda: not two_nodes.processes("ray::fetch_task", "ray::column_task"))

        driver = start()
        victims = ["ray::column_task", "ray::ClipEncoderServer"]
        kills = len(moments)
        while driver.poll() is None:
            for victim in list(victims):
                for process in two_nodes.processes(victim)[:1]:
                    try:
                        process.kill()
                    except psutil.NoSuchProcess:
                        continue
                    victims.remove(victim)
                    kills += 1
            time.sleep(0.1)
        assert driver.returncode == 0
        last = run_ingest(two_nodes.environment, *ingest_arguments(small_clips, server, store))
        assert last.returncode == 0
        assert "this run: nothing to do" in last.stdout
        assert 12 <= len(server.log()) <= 12 + kills * IN_FLIGHT
    assert live_tars(store) == calm
    assert_whole(store, small_clips)


def test_the_encoders_node_is_lost_while_every_cpu_is_busy(
    small_clips: SmallClips, calm: dict[str, str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with cluster(1, 1, dashboard=False) as doomed, LoopbackServer(small_clips.media) as server:
        # Two actors on two nodes: one of them is on the node that goes. Both are held still, so that the tasks that
        # wait for them fill the CPUs and stay there.
        driver = subprocess.Popen(
            ingest_command(*ingest_arguments(small_clips, server, store), "--encoder-actors", "2"),
            env=doomed.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        wait_for(lambda: len(doomed.processes("ray::ClipEncoderServer")) == 2 or driver.poll() is not None)
        encoders = doomed.processes("ray::ClipEncoderServer")
        for encoder in encoders:
            encoder.suspend()
        lost = doomed.processes("ray::ClipEncoderServer", node="node1")
        wait_for(lambda: len(doomed.processes("ray::column_task")) >= 2 or driver.poll() is not None)
        time.sleep(3)  # both are past their sounds and wait for the encoder
        doomed.kill("node1")
        for encoder in encoders:
            if encoder not in lost:
                encoder.resume()
        output, _ = driver.communicate(timeout=400)
        assert len(lost) == 1
        assert driver.returncode == 0, output.decode()
        assert len(server.log()) <= 12 + IN_FLIGHT
    assert live_tars(store) == calm
    assert_whole(store, small_clips)


def test_a_clip_that_ends_its_cut_process_twice_is_crashed_and_its_shard_completes(
    two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path
) -> None:
    victim = small_clips.ytids[4]
    media = (small_clips.media / f"{victim}.mp4").read_bytes()
    index = media.rindex(b"moov") - 4
    # Its process has begun when the first chunk is there, and then waits for an index that is seconds away.
    media = media[:index] + struct.pack(">I", 300_008) + b"free" + bytes(300_000) + media[index:]
    drips = Route(data=media, ranges=False, bytes_per_s=60_000)
    with LoopbackServer(small_clips.media, {f"/{victim}.mp4": drips}) as server:
        words = ingest_arguments(small_clips, server, tmp_path / "store")
        words[words.index("--columns") + 1] = "none"
        driver = subprocess.Popen(
            ingest_command(*words), env=two_nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for turn in (1, 2):
            wait_for(lambda turn=turn: len(server.log(f"/{victim}.mp4")) == turn or driver.poll() is not None)
            # The others are done: nothing else is cut.
            wait_for(lambda: len({e.path for e in server.log() if e.seconds}) >= 11 or driver.poll() is not None)
            wait_for(lambda: server.log(f"/{victim}.mp4")[-1].bytes > 150_000 or driver.poll() is not None)
            for process in two_nodes.processes("pipeline.cut_child"):
                process.kill()
        said = driver.communicate(timeout=200)[0].decode()
    assert driver.returncode == 1 and "Traceback" not in said, said
    rows = {str(row["key"]): row for row in ledger_rows(tmp_path / "store")}
    row = rows.pop(f"{victim}_0")
    assert (row["status"], row["cause"], row["attempts"]) == ("failed", "crashed", 2)
    assert row["words"] == "the cut process ended with signal 9"
    assert len(rows) == 11 and {row["status"] for row in rows.values()} == {"fetched"}
