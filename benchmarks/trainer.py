"""What the trainer costs beside the network: steps per second of the whole trainer against a bare loop over one batch.

The trainer is the real one, alone on one device: reader, normalisation, groups, BatchNorm statistics, sums in order,
log. The bare loop has one batch of noise lying on the device and does forward, loss, backward and Adam over the same
groups, and nothing else. Both run in turn, several times; medians of their steps are compared.

    python benchmarks/trainer.py [--model csn] [--width 0.25] [--batch-size 20] [--group-size 10] [--json FILE]

At full size, on a GPU: --width 1 --batch-size 300 --group-size 50 --clips 3000.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from machine import hardware
from reader import COLUMNS, SPLIT, make_data

from models.arithmetic import arithmetic_of
from models.cost import model_cost
from models.ranks import Ranks
from models.registry import build, entry_of
from pipeline.train_options import TrainOptions
from pipeline.training import train
from stores.layout import Store

TARGET = 0.9
SHAPES = {spec.array: spec.shape for spec in COLUMNS}
SKIPPED = 3  # first steps, in which memory is taken and kernels are chosen


def whole(options: TrainOptions, out: Path, device: torch.device) -> list[float]:
    """Seconds of each step of the trainer."""
    train(replace(options, out=str(out)), Ranks(), device)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["seconds"] for line in lines if "loss" in line][SKIPPED:]


def bare(options: TrainOptions, device: torch.device, classes: int) -> list[float]:
    """Seconds of each step of the bare loop."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {**options.model_fields(), "classes": classes}
    if "video" in entry_of(options.model).model.columns:
        fields["video_dim"] = SHAPES["video"][-1]
    model = build(options.model, **fields).to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    inputs = {name: torch.randn(options.group, *SHAPES[name], device=device) for name in model.columns}
    targets = (torch.rand(options.group, classes, device=device) < 0.1).float()
    autocast = arithmetic_of(options.precision, device).autocast
    found = []
    for _ in range(options.steps):
        began = time.perf_counter()
        optimizer.zero_grad()
        total = 0.0
        for _ in range(options.groups_per_step):
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                scores = model(inputs)
            loss = F.binary_cross_entropy_with_logits(scores, targets)
            loss.backward()
            total += float(loss.detach())  # as the trainer, which has to know whether it is finite
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return found[SKIPPED:]


def main(
    model: str = "csn",
    width: float = 0.25,
    batch_size: int = 20,
    group_size: int = 10,
    steps: int = 15,
    clips: int = 200,
    runs: int = 3,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Runs both and prints a table.

    Args:
        model: Of the registry.
        width: Of the model.
        batch_size: Clips a step.
        group_size: Clips that go through the model at once.
        steps: Of each run; the first three do not count.
        clips: Of the store.
        runs: Of each; medians are compared.
        json_path: Where the figures are written, with hardware and versions.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratios, fast, slow = [], [], []
    with tempfile.TemporaryDirectory(prefix="avlens-bench-") as root:
        make_data(Path(root), clips)
        plan = Store.open(f"{root}/store").plan_summary(SPLIT)
        assert plan is not None
        classes = len(plan["classes"])
        options = TrainOptions(
            store=f"{root}/store",
            model=model,
            train_split=(SPLIT,),
            valid_split=(SPLIT,),
            out="",
            width=width,
            steps=steps,
            batch_size=batch_size,
            group_size=group_size,
            evaluate_every=steps,
        )
        for run in range(runs):
            fast.append(statistics.median(bare(options, device, classes)))
            slow.append(statistics.median(whole(options, Path(root, f"run{run}"), device)))
            ratios.append(fast[-1] / slow[-1])
    ratio = statistics.median(ratios)
    rate = batch_size / statistics.median(slow)
    _, flops = model_cost(model, width=width)
    print(f"{model}, width {width:g}, {batch_size} clips a step in groups of {group_size}, {_device(device)}")
    print(f"bare loop {batch_size / statistics.median(fast):.1f} clips/s, trainer {rate:.1f} clips/s")
    print(f"ratio {ratio:.3f} (target {TARGET}: {'met' if ratio >= TARGET else 'missed'}); of every run: "
          f"{', '.join(f'{value:.3f}' for value in ratios)}")  # fmt: skip
    print(f"about {3 * flops * rate / 1e9:.1f} GFLOP/s of the model (three forward passes a step)")
    if json_path is not None:
        setting = {
            "question": "clips per second of the whole trainer against a bare loop over one resident batch",
            "hardware": {**hardware(), "device": _device(device), "threads": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
            "model": {"name": model, "width": width, "batch_size": batch_size, "group_size": group_size},
        }
        results = {
            "bare_clips_per_s": round(batch_size / statistics.median(fast), 2),
            "trainer_clips_per_s": round(rate, 2),
            "ratio": round(ratio, 3),
            "ratios_of_every_run": [round(value, 3) for value in ratios],
            "model_gflop_per_s": round(3 * flops * rate / 1e9, 2),
        }
        json_path.write_text(json.dumps({**setting, "results": results}, indent=2) + "\n")


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name", platform.processor()))


if __name__ == "__main__":
    tyro.cli(main)
