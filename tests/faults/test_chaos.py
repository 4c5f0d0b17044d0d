"""Everything that an ingest stands on is killed again and again; it ends with the bytes of one that nobody disturbed.

The long form is `make chaos`: 200 clips, 30 kills. The short one runs with the other tests.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from calm_ingest import CalmIngest, ingest_arguments
from chaos import IN_FLIGHT, Chaos, ledger_rows, live_tars, many_clips
from ray_cluster import cluster, free_port, run_ingest
from small_clips import SmallClips

from pipeline.loopback import LoopbackServer

SEED = 20261123


def disturbed(clips: SmallClips, folder: Path, kills: int, seconds: float, calm: dict[str, str] | None) -> Chaos:
    """An ingest under chaos, and whether it ended as if nothing had happened; `calm` are another's tars, if known."""
    with cluster(1, 1, dashboard=False) as running:
        port = free_port()
        with LoopbackServer(clips.media, port=port) as server:
            words = ingest_arguments(clips, server, folder / "store")
            words[words.index("--retry-delay") + 1] = "3"
            if calm is None:
                quiet = [str(folder / "calm") if word == str(folder / "store") else word for word in words]
                done = run_ingest(running.environment, *quiet, timeout=1800)
                assert done.returncode == 0, done.stdout + done.stderr
                calm = live_tars(folder / "calm")
        chaos = Chaos(running, clips, folder / "store", port, words, random.Random(SEED), kills)
        chaos.run(seconds)
    assert live_tars(folder / "store") == calm
    rows = ledger_rows(folder / "store")
    assert len(rows) == len(clips.keys) and {row["status"] for row in rows} == {"fetched"}
    assert len(chaos.log) <= len(clips.keys) + chaos.kills.total() * IN_FLIGHT, (len(chaos.log), chaos.kills)
    return chaos


@pytest.mark.timeout(900)
def test_a_few_kills(small_clips: SmallClips, calm_ingest: CalmIngest, tmp_path: Path) -> None:
    chaos = disturbed(small_clips, tmp_path, 6, 600, calm_ingest.tars)
    assert chaos.kills.total() >= 6 and chaos.checks >= 2  # after the driver's restart and at the end
    assert set(chaos.kills) >= {"raylet", "server", "driver"}


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_thirty_kills(small_clips: SmallClips, tmp_path: Path) -> None:
    chaos = disturbed(many_clips(small_clips, tmp_path, 204), tmp_path, 30, 3000, None)
    assert chaos.kills.total() >= 30 and chaos.checks >= 3
    assert set(chaos.kills) >= {"worker", "raylet", "server", "driver"}
