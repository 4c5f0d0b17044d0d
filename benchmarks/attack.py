"""What a step of an attack costs: against a bare pass, eight at once against eight times one, and against ART.

    python benchmarks/attack.py [--model csn] [--width 0.25] [--batch-size 20] [--group-size 10] [--json FILE]

- One perturbation's step (gradients, sums in order, step, projection) against a bare forward and backward pass of the
  same groups, with the gradient of the perturbation only.
- A step of eight perturbations against eight steps of one each: what they share is reading and the video branch, so in
  compute they may cost no more than one after the other.
- Gradients per second against ART's UniversalPerturbation with its PGD attacker, on the same single-label network: one
  gradient is that of one clip's loss. ART is installed into the temporary folder, without its dependencies, which this
  project has.

At full size, on a GPU: --model mid2 --width 1 --batch-size 300 --group-size 50.
"""

from __future__ import annotations

import itertools
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from machine import hardware
from torch import Tensor, nn

from attacks.gradients import Gradients, Rules, frozen
from attacks.masks import Mask
from attacks.perturbation import SHAPE, Perturbation, Spec
from models.config import ModelConfig
from models.ranks import Ranks
from models.recogniser import Recogniser
from models.registry import build
from stores.split_reader import Group

PEER = ("adversarial-robustness-toolbox==1.20.1", "tqdm", "six")
CLASSES, VIDEO_DIM = 527, 512
RULES = Rules(bound=3.0, alpha=0.01, clamp=(-2.0, 2.0))
SPEC = Spec("projected", "2", "clip", "bce", 1, Mask(), 0.3)
# What must hold: the figure, at most or at least.
STEP_AT_MOST, EIGHT_AT_MOST, ART_AT_LEAST = 1.1, 1.05, 1.5


class SmallNet(Recogniser):
    """The peer's network: 25,000 parameters, ten labels of which one is true."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(classes=10))
        channels = (1, 8, 16, 32, 48)
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(channels):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Linear(192, 10))

    def score(self, logmel: Tensor, video_state: Tensor) -> Tensor:
        """[B, 400, 64] to logits [B, 10]."""
        return self.net(logmel[:, None])


def one_step(gradients: Gradients, items: list[Perturbation], groups: list[Group]) -> None:
    """A step of some perturbations."""
    for item, found in zip(items, gradients.step(items, groups, 0, len(groups)), strict=True):
        item.step(found.vector, 0.01, 0, 100)


def bare(model: Recogniser, groups: list[Group]) -> None:
    """A forward and a backward pass of each group."""
    delta = torch.zeros(SHAPE, device=groups[0].targets.device, requires_grad=True)
    total = torch.zeros_like(delta)
    for group in groups:
        state = model.encode_video(group.inputs.get("video"))
        scores = model.forward_audio(group.inputs["logmel"] + delta, state)
        loss = F.binary_cross_entropy_with_logits(scores, group.targets)
        total += torch.autograd.grad(loss, delta)[0]
    total.cpu()


def timed(run: Callable[[], None]) -> float:
    """Seconds of a call, with what it left to the device."""
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def steps(
    name: str, width: float, batch_size: int, group_size: int, runs: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each of the three, taken in turn."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"classes": CLASSES, "width": width} if name != "resnet50" else {"classes": CLASSES}
    model = build(name, **fields, **({"video_dim": VIDEO_DIM} if name in ("early", "mid1", "mid2", "late") else {}))
    model = model.to(device)
    groups = []
    for number in range(batch_size // group_size):
        inputs = {"logmel": torch.randn(group_size, *SHAPE, device=device)}
        if "video" in model.columns:
            inputs["video"] = torch.randn(group_size, 10, VIDEO_DIM, device=device)
        targets = (torch.rand(group_size, CLASSES, device=device) < 0.01).float()
        groups.append(Group(number, inputs, targets))
    one, eight = [Perturbation(SPEC)], [Perturbation(SPEC) for _ in range(8)]
    found: dict[str, list[float]] = {"bare": [], "one": [], "eight": [], "eight_single": []}
    with frozen(model):
        gradients = Gradients(model, Ranks(), RULES)
        for run in range(runs + 1):
            figures = {
                "bare": timed(lambda: bare(model, groups)),
                "one": timed(lambda: one_step(gradients, one, groups)),
                "eight": timed(lambda: one_step(gradients, eight, groups)),
                "eight_single": timed(lambda: [one_step(gradients, one, groups) for _ in range(8)] and None),
            }
            for what, seconds in figures.items() if run else ():  # the first takes memory and chooses kernels
                found[what].append(seconds)
    return found


def gradients_per_second(clips: int, device: torch.device) -> float:
    """This project's, of clips in batches of 50."""
    torch.manual_seed(0)
    model = SmallNet().to(device)
    groups = [
        Group(
            number,
            {"logmel": torch.randn(50, *SHAPE, device=device)},
            torch.eye(10, device=device)[torch.arange(50) % 10],
        )
        for number in range(clips // 50)
    ]
    with frozen(model):
        gradients, items = Gradients(model, Ranks(), RULES), [Perturbation(SPEC)]
        one_step(gradients, items, groups[:1])
        return clips / timed(lambda: one_step(gradients, items, groups))


def peers_gradients_per_second(folder: Path, clips: int, device: torch.device) -> float:
    """ART's: its classifier's loss gradients are counted while it makes a universal perturbation."""
    if str(folder) not in sys.path:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PEER]
        subprocess.run(command, check=True)
        sys.path.append(str(folder))
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (1, 400)), *SmallNet().net).to(device)
    place = "gpu" if device.type == "cuda" else "cpu"
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), SHAPE, 10, device_type=place)
    counted = 0
    loss_gradient = classifier.loss_gradient

    def counting(x: np.ndarray, *rest: Any, **more: Any) -> np.ndarray:
        nonlocal counted
        counted += len(x)
        return loss_gradient(x, *rest, **more)

    classifier.loss_gradient = counting
    parameters = {"eps": 0.01, "eps_step": 0.001, "max_iter": 10, "verbose": False}
    attack = UniversalPerturbation(classifier, "pgd", parameters, delta=0.0, max_iter=1, eps=0.3, norm=2, verbose=False)
    samples = np.random.default_rng(0).standard_normal((clips, *SHAPE)).astype(np.float32)
    seconds = timed(lambda: attack.generate(samples) is None and None)
    return counted / seconds


def main(
    model: str = "csn",
    width: float = 0.25,
    batch_size: int = 20,
    group_size: int = 10,
    runs: int = 5,
    json_path: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Measures and prints a table.

    Args:
        model: Of the registry; one that hears.
        width: Of the model.
        batch_size: Clips a step.
        group_size: Clips that go through the model at once.
        runs: Of each, in turn; medians of ratios are compared.
        json_path: Where the figures are written, with hardware and versions.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = steps(model, width, batch_size, group_size, runs, device)
    ratio = {
        "step": _ratio(found["one"], found["bare"]),
        "eight": _ratio(found["eight"], found["eight_single"]),
    }
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory(prefix="avlens-art-") as folder:
        for _ in range(3):
            rates.append((gradients_per_second(500, device), peers_gradients_per_second(Path(folder), 20, device)))
    ratio["art"] = statistics.median(ours / theirs for ours, theirs in rates)
    ours, theirs = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
    print(f"{model}, width {width:g}, {batch_size} clips a step in groups of {group_size}, {device.type}")
    for what, seconds in found.items():
        print(f"{what:13} {statistics.median(seconds):8.3f} s")
    for words, value, limit, holds in (
        ("one step / bare pass, at most", ratio["step"], STEP_AT_MOST, ratio["step"] <= STEP_AT_MOST),
        ("eight at once / eight single steps, at most", ratio["eight"], EIGHT_AT_MOST, ratio["eight"] <= EIGHT_AT_MOST),
        ("gradients per second / ART's, at least", ratio["art"], ART_AT_LEAST, ratio["art"] >= ART_AT_LEAST),
    ):
        print(f"{words} {limit}: {value:.3f}, {'met' if holds else 'NOT met'}")
    print(f"gradients per second: {ours:.0f}, ART {theirs:.0f}")
    if json_path is not None:
        report = {
            "question": "a step of one and of eight perturbations against bare passes, and gradients/s against ART",
            "hardware": {**hardware(), "device": _device(device), "threads": torch.get_num_threads()},
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "peer": PEER[0]},
            "model": {"name": model, "width": width, "batch_size": batch_size, "group_size": group_size},
            "seconds": {what: round(statistics.median(values), 4) for what, values in found.items()},
            "ratios": {what: round(value, 3) for what, value in ratio.items()},
            "gradients_per_s": {"avlens": round(ours), "art": round(theirs)},
        }
        json_path.write_text(json.dumps(report, indent=2) + "\n")


def _ratio(ones: list[float], others: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(torch.cpu.get_capabilities().get("cpu_name", platform.processor()))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
