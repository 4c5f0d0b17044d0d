"""A real Ray cluster on this machine, with ports of its own, whose nodes and workers tests may kill."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    # Without it Ray turns authentication on by itself wherever some earlier Ray left a token file.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "passive",  # an encoder's threads do not spin on cores that other tests need
}


def free_port() -> int:
    """A port that nobody listens on now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """A test run that is killed takes its nodes along: `ray start --block` ends its processes on SIGTERM."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@dataclass
class Cluster:
    """A head and further nodes, each a `ray start --block` with its own process group; jobs need the dashboard."""

    folder: Path
    dashboard: bool = True
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    metrics_ports: dict[str, int] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """For a driver of this cluster."""
        return {**ENVIRONMENT, "RAY_ADDRESS": self.address}

    def start(self, name: str, cpus: int) -> None:
        """Starts a node; the first is the head. Ray waits 30 s for one, which may be too short on a busy machine."""
        try:
            self._start(name, cpus)
        except RuntimeError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.nodes.pop(name).pid, signal.SIGKILL)
            self._start(name, cpus)

    def _start(self, name: str, cpus: int) -> None:
        command = [str(BIN / "ray"), "start", "--block", "--num-cpus", str(cpus), "--object-store-memory", "500000000"]
        command += ["--include-log-monitor", "false"]  # it polls; no test reads what workers print
        for flag in ("agent-listen", "agent-grpc"):
            command += [f"--dashboard-{flag}-port", str(free_port())]
        self.metrics_ports[name] = free_port()
        command += ["--metrics-export-port", str(self.metrics_ports[name]), "--node-name", name]
        if not self.nodes:
            command += ["--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard_port)]
            command += ["--include-dashboard", str(self.dashboard).lower(), "--temp-dir", str(self.folder)]
            command += ["--ray-client-server-port", str(free_port())]
        else:
            command += ["--address", self.address]
        log = open(self.folder.parent / f"{name}.log", "wb")  # noqa: SIM115 - lives as long as the node
        self.nodes[name] = subprocess.Popen(
            command,
            env=ENVIRONMENT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._wait_for(name)

    def kill(self, name: str) -> None:
        """SIGKILL for everything of a node at once, as when its machine is lost."""
        process = self.nodes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """Ends all nodes, the head last."""
        for name in reversed(list(self.nodes)):
            process = self.nodes.pop(name)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)  # `ray start --block` may take half a minute to end by itself
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def processes(self, *titles: str, node: str | None = None) -> list[psutil.Process]:
        """Its workers with such a title (Ray titles one after its task), of one node or of all that run.

        Other test runs have clusters beside this one: a worker is told by its node's session, which outlives a raylet.
        """
        sessions = [process.pid for name, process in self.nodes.items() if node in (None, name)]
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            with contextlib.suppress(ProcessLookupError):
                if any(title in line for title in titles) and os.getsid(process.pid) in sessions:
                    found.append(process)
        return found

    def _wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 90
        log = self.folder.parent / f"{name}.log"
        while b"Ray runtime started" not in log.read_bytes():
            if time.monotonic() > deadline or self.nodes[name].poll() is not None:
                raise RuntimeError(f"node {name} did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)


@contextlib.contextmanager
def cluster(*cpus: int, dashboard: bool = True) -> Iterator[Cluster]:
    """A running cluster with a node per number of CPUs; the first is the head."""
    # Not pytest's folder: Ray's socket paths below it would be longer than a socket's may be.
    with tempfile.TemporaryDirectory(prefix="avr", dir="/tmp", ignore_cleanup_errors=True) as root:
        running = Cluster(Path(root, "ray"), dashboard)
        try:
            for i, count in enumerate(cpus):
                running.start(f"node{i}", count)
            yield running
        finally:
            running.stop()


def ingest_command(*arguments: str) -> list[str]:
    """`python pipeline/ingest.py …` as an operator types it."""
    return [sys.executable, str(REPOSITORY / "pipeline" / "ingest.py"), *arguments]


def run_ingest(environment: dict[str, str], *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Runs an ingest to its end."""
    return subprocess.run(
        ingest_command(*arguments), env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


def submit(cluster: Cluster, *words: str) -> subprocess.Popen[str]:
    """`ray job submit` of a command, from the repository."""
    address = f"http://127.0.0.1:{cluster.dashboard_port}"
    command = [str(BIN / "ray"), "job", "submit", "--address", address, "--working-dir", str(REPOSITORY), "--", *words]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def lose_worker(cluster: Cluster, job: subprocess.Popen[str], written: Path) -> str:
    """SIGKILLs one of a submitted job's ranks once a file is there; what the job showed until its end."""
    try:
        deadline = time.monotonic() + 200
        while not written.exists():
            assert time.monotonic() < deadline and job.poll() is None, job.stdout.read() if job.stdout else ""
            time.sleep(0.02)
        victims = cluster.processes("ray::RayTrainWorker")
        assert victims
        victims[0].kill()
        shown, _ = job.communicate(timeout=280)
    finally:
        job.kill()
    assert job.returncode == 0, shown[-4000:]
    assert "a worker was lost" in shown
    return shown
