"""How long does one window of the clip encoder take on a CPU, in which arithmetic, and how many at once are best?

    python benchmarks/clip_encoder.py --threads 1 2 --at-once 1 5 [--json benchmarks/results/clip_encoder.json]

The peers in the same run are the plain network in float32 (BatchNorms as they are, contiguous) and PyTorch's own
bfloat16 convolutions. Weights are random: the time does not depend on them.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor, nn

from models.clip_encoder import ClipEncoder, has_units_for
from models.r2plus1d import build_network, load_state, random_state

FRAMES, SIZE = 32, 112


def seconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Best wall and CPU seconds of a run, after one that does not count."""
    run()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def run_plain(network: nn.Module, windows: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(windows.permute(0, 4, 1, 2, 3).float().contiguous())


def run_at_once(encoder: ClipEncoder, windows: Tensor) -> Tensor:
    encoder.windows_per_pass = len(windows)
    return encoder(windows)


def candidates(architecture: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is timed, by name; each takes uint8 windows."""
    state = random_state(architecture, 0)
    plain = build_network(architecture)
    load_state(plain, state)
    own_bfloat16 = ClipEncoder(architecture, state)
    own_bfloat16.stages.to(torch.bfloat16)
    return {
        "plain float32": partial(run_plain, plain),
        "encoder float32": partial(run_at_once, ClipEncoder(architecture, state, dtype="float32")),
        "PyTorch's own bfloat16": partial(run_at_once, own_bfloat16),
        "encoder bfloat16": partial(run_at_once, ClipEncoder(architecture, state)),
    }


def main(
    architecture: str = "r2plus1d_34",
    threads: tuple[int, ...] = (1, 2),
    at_once: tuple[int, ...] = (1, 5),
    repeats: int = 3,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Time the clip encoder and print a table.

    Args:
        architecture: A name of models.r2plus1d.ARCHITECTURES.
        threads: CPU threads to try.
        at_once: Windows in one pass through the network to try.
        repeats: Runs of each; the best one counts.
        json_path: Where the figures are written, with hardware and versions.
    """
    units = "with" if has_units_for("bfloat16", torch.device("cpu")) else "without"
    processor = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    print(f"{architecture}, windows of {FRAMES}x{SIZE}x{SIZE}, torch {torch.__version__}")
    print(f"{processor} {units} bfloat16 units")
    print(f"{'':24} threads  at once  wall s/window  cpu s/window")
    timed = candidates(architecture)
    rows = []
    for count in threads:
        torch.set_num_threads(count)
        for name, run in timed.items():
            for batch in at_once:
                windows = torch.randint(0, 256, (batch, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
                wall, cpu = seconds(partial(run, windows), repeats)
                print(f"{name:24} {count:7} {batch:8} {wall / batch:14.2f} {cpu / batch:13.2f}", flush=True)
                figures = {"wall_s_per_window": round(wall / batch, 3), "cpu_s_per_window": round(cpu / batch, 3)}
                rows.append({"what": name, "threads": count, "at_once": batch, **figures})
    if json_path is not None:
        setting = {
            "question": f"seconds a window of {architecture}, {FRAMES}x{SIZE}x{SIZE}, by arithmetic",
            "hardware": {"processor": f"{processor} {units} bfloat16 units", "cores": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        json_path.write_text(json.dumps({**setting, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
