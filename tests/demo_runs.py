"""The demo's store, made by its own ingest, and recognisers trained on it: for slow tests, which share them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from ray_cluster import ENVIRONMENT

from models.ranks import Ranks
from models.registry import MODELS, field_names
from pipeline.demo import ingest_command
from pipeline.demo_media import make_demo_dataset
from pipeline.loopback import LoopbackServer
from pipeline.train_options import TrainOptions
from pipeline.training import train


class DemoRuns:
    """Makes the store at once, and each recogniser when it is first asked for.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, root / "store"
        dataset = make_demo_dataset(root / "dataset")
        with LoopbackServer(dataset.media, {}) as server:
            command = ingest_command(dataset, server.url, self.store)
            subprocess.run(command, check=True, env=ENVIRONMENT, timeout=1200)

    def run(self, model: str) -> Path:
        """The folder of that model's run: an eighth of the width, 200 steps of 16 clips."""
        out = self.root / model
        if (out / "summary.json").exists():
            return out
        options = TrainOptions(
            store=str(self.store),
            model=model,
            train_split=("train",),
            valid_split=("valid", "select"),
            out=str(out),
            width=0.125,
            batch_size=16,
            steps=200,
            learning_rate=1e-3,
            evaluate_every=20,
            normalize_video="video" in MODELS[model].model.columns,
            set=("dropout=0.1",) if "dropout" in field_names(model) else (),
        )
        train(options, Ranks(), torch.device("cpu"))
        return out
