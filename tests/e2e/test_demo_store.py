"""Every family of recognisers learns what it can on the demo's store, and nothing that it cannot."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pytest
from demo_runs import DemoRuns

from models.chance import Band, permutation_chance
from models.metrics import evaluate
from models.registry import MODELS
from pipeline.demo_scenes import CLASSES
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
def found(demo_runs: DemoRuns) -> dict[str, dict[str, Worth]]:
    """By model and cue (and `all`), on the held-out clips that choose the best checkpoint."""
    worth = {}
    for model in MODELS:
        clips = read_scores(Storage(str(demo_runs.run(model))), "scores/valid+select.parquet")
        cues = np.array([CUES.get(mid, "") for mid, _ in clips.origin.classes])
        parts = {"all": cues != "", **{cue: cues == cue for cue in ("sound", "picture", "both")}}
        worth[model] = {
            part: Worth(
                evaluate(clips.scores[:, chosen], clips.targets[:, chosen]).mean_ap,
                permutation_chance(clips.scores[:, chosen], clips.targets[:, chosen], DRAWS).mean_ap,
            )
            for part, chosen in parts.items()
        }
        for part, value in worth[model].items():
            logger.info("%s, %s: mAP %.3f, %s", model, part, value.mean_ap, value.chance)
    return worth


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
