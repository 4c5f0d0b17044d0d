"""What is true of what a downloader says, when its server fails and it is killed half way? avlens and video2dataset.

    python benchmarks/faults.py --json benchmarks/results/faults.json

One loopback server, 300 clips in two lists. First a third of them has a fault: 404, 403, 410, 500, 503 once, a page or
rubbish or nothing where media should be, a transfer that is cut once; and each tool is killed with SIGKILL after half
of the clips were asked for, started again with the same words, and once more when it has ended (avlens with
`--retry unreachable`). Then none has a fault, but who sends more than forty requests in five seconds is answered with
429 for five seconds, and each tool is started three times. In the end every file in its tars is decoded by
PyAV, from the first picture to the last sample, and compared with what the tool reports, what the server could have
given, and what the tool's records say about the rest. video2dataset is installed into an environment of its own.
"""

from __future__ import annotations

import io
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import av
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from ingest import clips_of
from machine import environment_with, hardware
from rich.console import Console
from rich.table import Table

from pipeline.loopback import LoopbackServer, RequestLimit, Route, html_page

PEERS = ("video2dataset==1.3.0", "pyarrow<21", "numpy<2")
PEER = Path(__file__).with_name("faults_video2dataset.py")
REPOSITORY = Path(__file__).resolve().parents[1]
CLIPS, EACH, LISTS, SEED = 300, 10, 2, 1


@dataclass(frozen=True)
class Fault:
    """What the server does instead of serving a file.

    Attributes:
        route: None: nothing, the file comes as it is.
        passes: whether the file comes when asked for again.
        told: what the record of a clip that was not got should say, as a regular expression.
    """

    route: Route | None
    passes: bool
    told: str = ""


FAULTS = {
    "404": Fault(Route(status=404), False, r"404|\bgone\b"),
    "410": Fault(Route(status=410), False, r"410|\bgone\b"),
    "403": Fault(Route(status=403), False, r"403|forbidden"),
    "500": Fault(Route(status=500), False, r"500|server error"),
    "503, once": Fault(Route(status=503, times=1), True, r"503|unavailable"),
    "cut off, once": Fault(Route(truncate_at=50_000, times=1), True, r"cut|closed|incomplete|ended early"),
    "a page of HTML": Fault(html_page(), False, r"html|page"),
    "a page called video/mp4": Fault(html_page("video/mp4"), False, r"html|page"),
    "rubbish": Fault(Route(data=bytes(random.Random(0).randbytes(40_000))), False, r"undecodable|invalid|no media"),
    "nothing": Fault(Route(data=b""), False, r"empty|nothing|no bytes|0 bytes"),
}


@dataclass
class Outcome:
    """What a tool has and says in the end, by clip.

    Attributes:
        files: by clip, every file that its tars hold.
        success: clips that it says it has.
        words: by clip that it says it has not, what it says.
        unreadable: names of tars and tables that cannot be read to their end.
    """

    files: dict[str, list[bytes]] = field(default_factory=dict)
    success: set[str] = field(default_factory=set)
    words: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def rows(self, table: Path) -> list[dict[str, Any]]:
        """Of a Parquet table, none where it is damaged."""
        try:
            return pq.read_table(table).to_pylist()
        except (OSError, pa.ArrowException):
            self.unreadable.append(table.name)
            return []

    def members(self, path: Path) -> Iterator[tuple[str, bytes]]:
        """Files of a tar, as far as it goes."""
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    if file is not None:
                        yield member.name, file.read()
        except tarfile.TarError:
            self.unreadable.append(path.name)


LIMIT = RequestLimit(requests=40, window_s=5.0, ban_s=5.0)
SCENARIOS = ("faults and a kill", "a limit of requests")


def lay_out(root: Path) -> tuple[dict[str, str], list[Path]]:
    """Media and lists; the fault of each clip by its id, "" for none."""
    paths = clips_of(root / "media", CLIPS)
    ids = [path.stem for path in paths]
    drawn = random.Random(SEED).sample(ids, EACH * len(FAULTS))
    faults = dict.fromkeys(ids, "") | {ytid: list(FAULTS)[i // EACH] for i, ytid in enumerate(drawn)}
    lists, half = [], CLIPS // LISTS
    for number in range(LISTS):
        path = root / f"list{number}.csv"
        rows = [f'{ytid}, 0.000, 10.000, "/m/09x0r"' for ytid in ids[number * half : (number + 1) * half]]
        path.write_text("\n".join(["# YTID, start_seconds, end_seconds, positive_labels", *rows]) + "\n")
        lists.append(path)
    return faults, lists


class Server:
    """The server of one tool's runs, with every fault as new.

    Attributes:
        kills: whether the first run is killed half way.
    """

    def __init__(self, media: Path, faults: dict[str, str], limit: RequestLimit | None) -> None:
        scripted = {ytid: FAULTS[name].route for ytid, name in faults.items() if name}
        routes = {f"/{ytid}.mp4": route for ytid, route in scripted.items() if route is not None}
        self.loopback = LoopbackServer(media, routes, latency_s=0.05, limit=limit)
        self.kills = limit is None

    def is_half_done(self) -> bool:
        """Whether half of the clips were asked for."""
        return len({entry.path for entry in self.loopback.log()}) >= CLIPS // 2


def three_runs(
    command: list[str], again: list[str], environment: dict[str, str], server: Server, log: Path
) -> list[int]:
    """The command, killed half way if the scenario has it so; then the same; then with further words. Exit codes."""
    if server.kills:
        run_killed(command, environment, server.is_half_done, log)
    else:
        run(command, environment, log)
    return [run(command, environment, log), run([*command, *again], environment, log)]


def run_killed(command: list[str], environment: dict[str, str], enough: Callable[[], bool], log: Path) -> None:
    """Runs a command until it is enough, then kills it and everything that it started."""
    with open(log, "ab") as file:
        process = psutil.Popen(command, env=environment, stdout=file, stderr=file)
    while not enough():
        if process.poll() is not None:
            raise SystemExit(f"{command} ended by itself before it was killed: {log.read_text()[-3000:]}")
        time.sleep(0.02)
    for victim in [*process.children(recursive=True), process]:
        try:
            victim.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    time.sleep(3.0)  # what it did not start itself ends without it


def run(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Runs a command to its end; its exit status."""
    with open(log, "ab") as file:
        return subprocess.run(command, env=environment, stdout=file, stderr=file, timeout=1800, check=False).returncode


def avlens(root: Path, lists: list[Path], server: Server) -> tuple[Outcome, list[int]]:
    """Ours: killed, the same words again, then the unreachable ones once more."""
    store, log = root / "store", root / "avlens.log"
    command = [sys.executable, str(REPOSITORY / "pipeline/ingest.py"), "--store", str(store), "--shard-size", "50"]
    command += ["--source", f"http:{server.loopback.url}/{{ytid}}.mp4", "--retry-delay", "2"]
    for path in lists:
        command += ["--segments", f"{path.stem}={path}"]
    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled"}
    codes = three_runs(command, ["--retry", "unreachable"], environment, server, log)
    found = Outcome()
    for table in sorted(store.glob("media/*/*.parquet")):
        for row in found.rows(table):
            ytid = row["key"].rsplit("_", 1)[0]
            if row["status"] == "fetched":
                found.success.add(ytid)
            else:
                found.words[ytid] = f"{row['status']} {row['cause']}: {row['words']}"
        summary = json.loads(pq.read_metadata(table).metadata[b"avlens"])
        for tar in summary["tars"]:
            for name, data in found.members(table.parent / tar):
                if name.endswith(".json"):
                    continue
                found.files.setdefault(name.split(".")[0].rsplit("_", 1)[0], []).append(data)
    for table in store.glob("features/*/*/*.parquet"):
        for row in found.rows(table):
            if row["status"] != "ok":  # it is in the store, and known to be no clip
                ytid = row["key"].rsplit("_", 1)[0]
                found.success.discard(ytid)
                found.words[ytid] = f"fetched, {row['status']}: {row['words']}"
    return found, codes


def video2dataset(root: Path, lists: list[Path], server: Server, python: Path) -> tuple[Outcome, list[int]]:
    """Theirs: killed, the same words again, twice."""
    folder, urls, log = root / "v2d", root / "urls", root / "v2d.log"
    urls.mkdir()
    for path in lists:
        ids = [line.split(",")[0] for line in path.read_text().splitlines()[1:]]
        rows = [f"{server.loopback.url}/{ytid}.mp4,{ytid}" for ytid in ids]
        (urls / path.name).write_text("\n".join(["url,caption", *rows]) + "\n")
    command = [str(python), str(PEER), str(urls), str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    codes = three_runs(command, [], environment, server, log)
    found = Outcome()
    for table in sorted(folder.glob("*.parquet")):
        for row in found.rows(table):
            ytid = Path(row["url"]).stem
            if row["status"] == "success":
                found.success.add(ytid)
            else:
                found.words[ytid] = f"{row['status']}: {row['error_message']}"
    for tar in sorted(folder.glob("*.tar")):
        names: dict[str, str] = {}
        held: list[tuple[str, bytes]] = []
        for name, data in found.members(tar):
            stem, _, extension = name.partition(".")
            if extension == "json":
                names[stem] = Path(json.loads(data)["url"]).stem
            elif extension == "mp4":
                held.append((stem, data))
        for stem, data in held:
            found.files.setdefault(names.get(stem, stem), []).append(data)
    return found, codes


def decodes(data: bytes) -> bool:
    """Whether these are ten seconds of picture and of sound."""
    try:
        with av.open(io.BytesIO(data)) as file:
            pictures = sum(1 for _ in file.decode(video=0))
        with av.open(io.BytesIO(data)) as file:
            samples = sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))
    except (av.FFmpegError, IndexError):
        return False
    return pictures >= 290 and samples >= 9.8


def judge(outcome: Outcome, faults: dict[str, str], requests: int) -> dict[str, Any]:
    """What a tool says against what is so."""
    true = {ytid for ytid, files in outcome.files.items() if any(decodes(data) for data in files)}
    obtainable = {ytid for ytid, name in faults.items() if not name or FAULTS[name].passes}
    not_had = set(faults) - true
    told = {
        ytid
        for ytid in not_had
        if faults[ytid] and re.search(FAULTS[faults[ytid]].told, outcome.words.get(ytid, ""), re.IGNORECASE)
    }
    return {
        "planned": len(faults),
        "obtainable": len(obtainable),
        "reported_success": len(outcome.success),
        "true_success": len(true),
        "reported_but_not_so": len(outcome.success - true),
        "lost": len(obtainable - true),
        "lost_without_a_record": len(obtainable - true - outcome.success - set(outcome.words)),
        "no_clip_but_in_the_tars": sum(not decodes(data) for files in outcome.files.values() for data in files),
        "more_than_once": sum(len(files) > 1 for files in outcome.files.values()),
        "unreadable_files": len(outcome.unreadable),
        "not_had": len(not_had),
        "cause_told": len(told),
        "requests": requests,
        "by_fault": {name or "none": by_fault(name, faults, true, outcome) for name in ("", *FAULTS)},
    }


def by_fault(name: str, faults: dict[str, str], true: set[str], outcome: Outcome) -> dict[str, Any]:
    """Of the clips with one fault: had, said to be had, and what is said of the others."""
    these = {ytid for ytid, other in faults.items() if other == name}
    said = Counter(
        re.sub(r"\S*clip\d+\S*|127\S+", "…", outcome.words[ytid])[:110] for ytid in these & set(outcome.words)
    )
    return {
        "clips": len(these),
        "had": len(these & true),
        "reported": len(these & outcome.success),
        "said": dict(said.most_common(3)),
    }


def one_tool(
    tool: str, root: Path, lists: list[Path], server: Server, faults: dict[str, str], python: Path
) -> dict[str, Any]:
    """Figures of one tool's three runs."""
    with server.loopback:
        began = time.perf_counter()
        if tool == "avlens":
            outcome, codes = avlens(root, lists, server)
        else:
            outcome, codes = video2dataset(root, lists, server, python)
        seconds = time.perf_counter() - began
        found = judge(outcome, faults, len(server.loopback.log()))
    return found | {"seconds": round(seconds, 1), "exit_codes": codes}


def main(
    peer: Path | None = None,
    folder: Path | None = None,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Let both tools fetch from a server that fails, and print what they have and what they say.

    Args:
        peer: An environment that has video2dataset already; left out, one is made in the temporary folder (6 GB).
        folder: Where to work; left out, the temporary folder.
        json_path: Where to write the figures with the hardware and versions.
    """
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as temporary:
        root = Path(temporary)
        python = (peer.absolute() if peer else environment_with(root / "peer", PEERS)) / "bin/python"
        faults, lists = lay_out(root)
        results = {}
        for scenario, planned, limit in zip(SCENARIOS, (faults, dict.fromkeys(faults, "")), (None, LIMIT), strict=True):
            (root / scenario).mkdir()
            results[scenario] = {
                tool: one_tool(tool, root / scenario, lists, Server(root / "media", planned, limit), planned, python)
                for tool in ("avlens", "video2dataset")
            }
            show(scenario, results[scenario])
    if json_path is not None:
        theirs = subprocess.run([str(python), str(PEER)], check=True, capture_output=True, text=True) if peer else None
        report = {
            "question": "what two downloaders say they have, and what they have, after faults, a kill and a resume",
            "hardware": hardware(),
            "versions": {
                "python": platform.python_version(),
                "ray": version("ray"),
                "video2dataset": theirs.stdout.strip() if theirs else PEERS[0].rpartition("=")[2],
            },
            "results": results,
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def show(scenario: str, results: dict[str, Any]) -> None:
    """Tables on the terminal."""
    console = Console(width=160)
    table = Table(scenario, *results)
    for name in next(iter(results.values())):
        if name != "by_fault":
            table.add_row(name.replace("_", " "), *(str(found[name]) for found in results.values()))
    console.print(table)
    words = Table("fault", "tool", "clips", "had", "reported", "said of the others")
    for name in next(iter(results.values()))["by_fault"]:
        for tool, found in results.items():
            row = found["by_fault"][name]
            if not row["clips"]:
                continue
            said = "; ".join(f"{count} × {text}" for text, count in row["said"].items())
            words.add_row(name, tool, *(str(row[column]) for column in ("clips", "had", "reported")), said)
    console.print(words)


if __name__ == "__main__":
    tyro.cli(main)
