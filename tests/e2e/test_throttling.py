"""A server that says "too many" and then bans: nothing is lost, nobody is hammered, other addresses go on."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray_cluster import Cluster, ingest_command, run_ingest
from small_clips import SmallClips

from pipeline.loopback import LogEntry, LoopbackServer, RequestLimit

LIMIT = RequestLimit(requests=8, window_s=4.0, ban_s=3.0)
ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3"}


def arguments(clips: SmallClips, server: LoopbackServer, store: Path, *more: str) -> list[str]:
    source = f"http:{server.url}/{{ytid}}.mp4"
    flags = ["--segments", f"mine={clips.csv}", "--source", source, "--store", str(store), "--columns", "none"]
    return [*flags, "--shard-size", "3", "--fetch-threads", "2", "--retry-delay", "2", *more]


def most_in_a_window(entries: list[LogEntry]) -> int:
    times = sorted(entry.at for entry in entries)
    return max((sum(at - LIMIT.window_s < other <= at for other in times) for at in times), default=0)


def assert_all_fetched(store: Path) -> None:
    rows = [row for path in store.glob("media/mine/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 12 and {row["status"] for row in rows} == {"fetched"}


@pytest.mark.parametrize("addresses", [1, 2])
def test_nothing_is_lost_and_nobody_is_hammered(
    two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path, addresses: int
) -> None:
    names = list(ADDRESSES)[:addresses]
    tables = "".join(f'[test-{addresses}-{name}]\nsource_address = "{ADDRESSES[name]}"\n' for name in names)
    (tmp_path / "egresses.toml").write_text(tables)
    store = tmp_path / "store"
    with LoopbackServer(small_clips.media, limit=LIMIT) as server:
        more = ["--egresses", str(tmp_path / "egresses.toml")]
        result = run_ingest(two_nodes.environment, *arguments(small_clips, server, store, *more))
        log = server.log()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "planned 12 = fetched 12 + failed 0 + pending 0" in result.stdout
    assert_all_fetched(store)
    for name in names:
        mine = [entry for entry in log if entry.client == ADDRESSES[name]]
        refused = [entry for entry in mine if entry.status == 429]
        # What was under way on two nodes when it first said so, and a probe or two.
        assert len(refused) <= 8
        if refused:
            later = [entry for entry in mine if entry.at > refused[0].at + 1.0]
            assert most_in_a_window(later) <= LIMIT.requests
            (path,) = store.glob(f"egress/*_test-{addresses}-{name}.json")
            journal = json.loads(path.read_text())
            assert journal["learnt_gap_s"] > 0
    assert {entry.client for entry in log} == {ADDRESSES[name] for name in names}


def test_two_jobs_share_one_budget(two_nodes: Cluster, small_clips: SmallClips, tmp_path: Path) -> None:
    """Two jobs at once ask for twelve videos each, at one every half second, whatever their shards and tasks."""
    (tmp_path / "egresses.toml").write_text("[shared]\nvideos_per_hour = 7200\n")
    more = ["--egresses", str(tmp_path / "egresses.toml"), "--fetch-shards", "4"]
    with LoopbackServer(small_clips.media) as server:
        jobs = [
            subprocess.Popen(
                ingest_command(*arguments(small_clips, server, tmp_path / store, *more)),
                env=two_nodes.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for store in ("one", "two")
        ]
        said = [job.communicate(timeout=240)[0].decode() for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], said
        for store in ("one", "two"):
            assert_all_fetched(tmp_path / store)
        began = sorted(entry.at for entry in server.log() if entry.range is None or entry.range.startswith("bytes=0-"))
    assert len(began) == 24
    # The jitter shrinks a gap to 0.35 s at most, so that this is the least that twenty-four turns may take.
    assert began[-1] - began[0] > 23 * 0.35 * 0.9
    gaps = [later - earlier for earlier, later in pairwise(began)]
    assert sum(gap < 0.2 for gap in gaps) <= 4  # a busy machine is late now and then, and then two come together
