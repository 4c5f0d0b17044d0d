"""An ingest over loopback HTTP that nobody disturbs: what several tests begin with, or compare with."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ray_cluster import Cluster, run_ingest
from small_clips import SmallClips
from store_factory import column_tars

from pipeline.loopback import LoopbackServer

SHARDS, THREADS = 2, 2
OPTIONS = [
    *("--columns", "logmel,r2plus1d_18", "--encoder-weights", "random:0", "--window-frames", "4", "--fps", "1"),
    *("--frame-size", "16", "--shard-size", "3", "--fetch-shards", str(SHARDS), "--fetch-threads", str(THREADS)),
    *("--retry-delay", "0.5"),
]


@dataclass(frozen=True)
class CalmIngest:
    """What it left: the store, the words of its command, and what the server was asked for.

    Attributes:
        openings: how often each file was begun to be fetched.
        requests: how many there were in all.
    """

    store: Path
    words: tuple[str, ...]
    result: subprocess.CompletedProcess[str]
    openings: Counter[str]
    requests: int

    @property
    def tars(self) -> dict[str, str]:
        """Digests of its column tars by name."""
        return column_tars(self.store)

    def words_for(self, store: Path) -> list[str]:
        """The same command for another store."""
        return [str(store) if word == str(self.store) else word for word in self.words]


def ingest_arguments(clips: SmallClips, server: LoopbackServer, store: Path) -> list[str]:
    """Flags of an ingest from a loopback server."""
    source = f"http:{server.url}/{{ytid}}.mp4"
    return ["--segments", f"mine={clips.csv}", "--source", source, "--store", str(store), *OPTIONS]


def ingest_calmly(cluster: Cluster, clips: SmallClips, store: Path) -> CalmIngest:
    """Runs it to its end; the server is gone afterwards, so that who fetches again is found out."""
    with LoopbackServer(clips.media) as server:
        words = ingest_arguments(clips, server, store)
        result = run_ingest(cluster.environment, *words)
        log = server.log()
        began = (e.path for e in log if e.range is None or e.range.startswith("bytes=0-"))
        return CalmIngest(store, tuple(words), result, Counter(began), len(log))
