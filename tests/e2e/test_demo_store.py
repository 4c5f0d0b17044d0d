"""Every family of recognisers learns what it can on the demo's store, and nothing that it cannot."""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from ray_cluster import ENVIRONMENT

from models.chance import Band, permutation_chance
from models.metrics import evaluate
from models.ranks import Ranks
from models.registry import MODELS, field_names
from pipeline.demo import ingest_command
from pipeline.demo_media import make_demo_dataset
from pipeline.demo_scenes import CLASSES
from pipeline.loopback import LoopbackServer
from pipeline.train_options import TrainOptions
from pipeline.training import train
from stores.scores import read_scores
from stores.storage import Storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

logger = logging.getLogger(__name__)

DRAWS = 400
HEARING, SEEING = ("csn", "crnn", "resnet50"), ("video",)
BLENDING = ("early", "mid1", "mid2", "late")
CUES = {demo_class.mid: demo_class.cue for demo_class in CLASSES}


@dataclass(frozen=True)
class Worth:
    """mAP of some classes, and what shuffled labels give for the same scores."""

    mean_ap: float
    chance: Band


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Worth]]:
    """By model and cue (and `all`), on the held-out clips that choose the best checkpoint."""
    root = tmp_path_factory.mktemp("demo")
    dataset = make_demo_dataset(root / "dataset")
    with LoopbackServer(dataset.media, {}) as server:
        command = ingest_command(dataset, server.url, root / "store")
        subprocess.run(command, check=True, env=ENVIRONMENT, timeout=1200)
    worth = {}
    for model in MODELS:
        run_one(root, model)
        clips = read_scores(Storage(str(root / model)), "scores/valid+select.parquet")
        cues = np.array([CUES.get(mid, "") for mid, _ in clips.origin.classes])
        parts = {"all": cues != "", **{cue: cues == cue for cue in ("sound", "picture", "both")}}
        worth[model] = {
            part: Worth(
                evaluate(clips.scores[:, chosen], clips.targets[:, chosen]).mean_ap,
                permutation_chance(clips.scores[:, chosen], clips.targets[:, chosen], DRAWS).mean_ap,
            )
            for part, chosen in parts.items()
        }
        logger.info(
            "%s %s", model, {part: f"{value.mean_ap:.3f} ({value.chance})" for part, value in worth[model].items()}
        )
    return worth


def run_one(root: Path, model: str) -> None:
    options = TrainOptions(
        store=str(root / "store"),
        model=model,
        train_split=("train",),
        valid_split=("valid", "select"),
        out=str(root / model),
        width=0.125,
        batch_size=16,
        steps=200,
        learning_rate=1e-3,
        evaluate_every=20,
        normalize_video="video" in MODELS[model].model.columns,
        set=("dropout=0.1",) if "dropout" in field_names(model) else (),
    )
    train(options, Ranks(), torch.device("cpu"))


@pytest.mark.parametrize("model", MODELS)
def test_every_family_beats_chance(found: dict[str, dict[str, Worth]], model: str) -> None:
    worth = found[model]["all"]
    assert worth.mean_ap > worth.chance.high + 0.02


@pytest.mark.parametrize("model", HEARING)
def test_who_only_hears_fails_on_what_only_shows(found: dict[str, dict[str, Worth]], model: str) -> None:
    unseen, heard = found[model]["picture"], found[model]["sound"]
    assert unseen.mean_ap <= unseen.chance.high + 0.02
    assert heard.mean_ap > heard.chance.high + 0.02


@pytest.mark.parametrize("model", SEEING)
def test_who_only_sees_fails_on_what_only_sounds(found: dict[str, dict[str, Worth]], model: str) -> None:
    unheard, seen = found[model]["sound"], found[model]["picture"]
    assert unheard.mean_ap <= unheard.chance.high + 0.02
    assert seen.mean_ap > seen.chance.high + 0.02


def test_fusion_beats_both(found: dict[str, dict[str, Worth]]) -> None:
    alone = max(found[model]["all"].mean_ap for model in ("csn", "video"))
    assert max(found[model]["all"].mean_ap for model in BLENDING) > alone + 0.02
    for model in BLENDING:  # each has something of both
        assert all(found[model][cue].mean_ap > found[model][cue].chance.mean for cue in ("sound", "picture"))
