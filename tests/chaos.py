"""Kills an ingest's processes at random moments, with a seed, and checks after each restart that the store is whole."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from calm_ingest import SHARDS, THREADS
from ray_cluster import Cluster, ingest_command
from small_clips import SmallClips, write_list
from store_factory import column_tars

from pipeline.loopback import LogEntry, LoopbackServer
from stores.layout import Store
from stores.verify import verify

logger = logging.getLogger(__name__)

IN_FLIGHT = SHARDS * THREADS  # clips that are being fetched at one moment
CALM_S = (1.0, 5.0)  # between two kills
NODE = "node1"


def many_clips(clips: SmallClips, folder: Path, count: int) -> SmallClips:
    """As many clips as asked for, out of a dozen encoded ones."""
    media = folder / "media"
    media.mkdir(parents=True)
    ytids = tuple(f"-b_{i // 2:07d}{'x' if i % 2 else 'X'}" for i in range(count))
    for i, ytid in enumerate(ytids):
        shutil.copy(clips.media / f"{clips.ytids[i % len(clips.ytids)]}.mp4", media / f"{ytid}.mp4")
    return SmallClips(media, write_list(folder / "list.csv", ytids), ytids)


def live_tars(store: Path) -> dict[str, str]:
    """The column tars that manifests name; a crash between tar and manifest may leave others, which are garbage."""
    named = set()
    for path in store.glob("features/*/*/*.parquet"):
        summary = json.loads(pq.read_metadata(path).metadata[b"avlens"])
        named.add(str((path.parent / summary["tar"]["name"]).relative_to(store)))
    return {name: digest for name, digest in column_tars(store).items() if name in named}


def ledger_rows(store: Path) -> list[dict[str, object]]:
    """Every row of every ledger."""
    return [row for path in store.glob("media/mine/*.parquet") for row in pq.read_table(path).to_pylist()]


@dataclass
class Chaos:
    """An ingest of `clips` into `store` that is disturbed until enough was killed, and then left to end.

    Attributes:
        words: of the ingest's command, for a server at `port`.
        kills: by what was killed.
        log: what all servers were asked for.
        checks: how often the store was found whole.
    """

    cluster: Cluster
    clips: SmallClips
    store: Path
    port: int
    words: list[str]
    dice: random.Random
    wanted: int
    kills: Counter[str] = field(default_factory=Counter)
    log: list[LogEntry] = field(default_factory=list)
    checks: int = 0
    _kept: set[str] = field(default_factory=set)
    _bag: list[Callable[[], None]] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Disturbs until `wanted` kills have been made, then waits for the end. Fails after so many seconds."""
        deadline = time.monotonic() + seconds
        self._serve()
        self._start()
        try:
            while self.kills.total() < self.wanted:
                assert time.monotonic() < deadline, f"only {self.kills} in {seconds:.0f} s"
                time.sleep(self.dice.uniform(*CALM_S))
                self._next_kill()()
                if self.driver.poll() is not None:
                    self._ended()
                    # What is done cannot be disturbed any more: take a commit back, as a lost disk would.
                    self._lose_a_commit()
                    self._start()
            while self.driver.poll() is None:
                assert time.monotonic() < deadline, f"not done after {self.kills} and {seconds:.0f} s"
                time.sleep(0.2)
            self._ended()
            self._start("--retry", "unreachable")
            assert self.driver.wait(max(10.0, deadline - time.monotonic())) == 0, self.output()
            self.check()
        finally:
            self.driver.kill()
            self.driver.wait()
            self._stop_server()

    def _ended(self) -> None:
        """No kill ends a job but its driver's own; 1: some clips are left for later."""
        assert self.driver.returncode in (0, 1), self.output()
        assert "Traceback (most recent call last)" not in self.output(), self.output()

    def output(self) -> str:
        """The end of what the drivers said."""
        return (self.store.parent / "driver.log").read_text(errors="replace")[-4000:]

    def check(self) -> None:
        """The invariants of DESIGN section 4 on the store as it is now; what was committed once is still there."""
        if not (self.store / "store.json").exists():
            return
        checked = verify(Store.open(str(self.store)), media=True)
        problems = [str(problem) for part in checked for problem in part.problems]
        assert problems == [], problems
        rows = ledger_rows(self.store)
        keys = [str(row["key"]) for row in rows]
        assert len(keys) == len(set(keys))
        fetched = {str(row["key"]) for row in rows if row["status"] == "fetched"}
        assert fetched >= self._kept, self._kept - fetched
        self._kept = fetched
        self.checks += 1

    # ---------------------------------------------------------------- what is killed

    def _next_kill(self) -> Callable[[], None]:
        """Each kind once, in any order, before any comes again."""
        if not self._bag:
            self._bag = [self._worker, self._encoder, self._node, self._restart_server, self._restart_driver]
            self.dice.shuffle(self._bag)
        return self._bag.pop()

    def _worker(self) -> None:
        self._kill_one("worker", "ray::fetch_task", "ray::column_task")

    def _encoder(self) -> None:
        self._kill_one("encoder", "ray::ClipEncoderServer")

    def _kill_one(self, what: str, *titles: str) -> None:
        found = self.cluster.processes(*titles)
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.dice.choice(sorted(found, key=lambda process: process.pid)).kill()
                self._count(what)

    def _node(self) -> None:
        self.cluster.kill(NODE)
        self._count("raylet")
        time.sleep(self.dice.uniform(0, 2))
        self.cluster.start(NODE, 1)

    def _restart_server(self) -> None:
        self._stop_server()
        self._count("server")
        time.sleep(self.dice.uniform(0, 1))
        self._serve()

    def _restart_driver(self) -> None:
        wait_for(lambda: (self.store / "store.json").exists() or self.driver.poll() is not None)
        self.driver.kill()
        self.driver.wait()
        self._count("driver")
        wait_for(lambda: not self.cluster.processes("ray::fetch_task", "ray::column_task"))
        self.check()
        self._start()

    def _lose_a_commit(self) -> None:
        tables = sorted(self.store.glob("features/*/mine/*.parquet"))
        for path in self.dice.sample(tables, min(4, len(tables))):
            path.unlink()

    def _count(self, what: str) -> None:
        self.kills[what] += 1
        logger.info("kill %d of %d: %s", self.kills.total(), self.wanted, what)

    # ---------------------------------------------------------------- what runs

    def _start(self, *more: str) -> None:
        with open(self.store.parent / "driver.log", "ab") as log:
            self.driver = subprocess.Popen(
                ingest_command(*self.words, *more),
                env=self.cluster.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _serve(self) -> None:
        self.server = LoopbackServer(self.clips.media, port=self.port, latency_s=0.1)
        self.server.__enter__()
        self.port = int(self.server.url.rsplit(":", 1)[1])

    def _stop_server(self) -> None:
        self.log += self.server.log()
        self.server.__exit__(None, None, None)


def wait_for(condition: Callable[[], object], seconds: float = 400) -> None:
    """Returns once the condition holds; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.05)
