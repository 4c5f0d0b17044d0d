"""Attacks on the demo's recognisers: stronger than noise, stronger with more room, and what is left without a bound."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo_runs import DemoRuns

from attacks.attack import attack, open_split, read_checkpoint
from attacks.attack_options import AttackOptions
from attacks.conditions import Condition, Delta, read_deltas
from attacks.gradients import Gradients, Rules, frozen
from attacks.scoring import score_split
from models.chance import permutation_chance
from models.metrics import evaluate
from models.ranks import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

logger = logging.getLogger(__name__)
CPU = torch.device("cpu")
MODELS = ("csn", "mid2", "late")
EPSILONS = (0.5, 2.0, 8.0)
MARGIN = 3.0  # an attack changes its objective by at least so many times what the best of the noise does
FULL = "projected-l2-clip-eps{:g}-full-bce-s15213"


def options_for(demo: DemoRuns, model: str, out: str, **changes: Any) -> AttackOptions:
    """Fitted and judged on the same clips: warm starts make comparisons exact there."""
    made = AttackOptions(
        store=str(demo.store),
        checkpoint=str(demo.run(model) / "best.pt"),
        fit_split=("train",),
        select_split=("train",),
        alpha=0.4,
        out=str(demo.root / out / model),
        epsilon=EPSILONS,
        batch_size=32,
        group_size=16,
        passes=8.0,
    )
    return replace(made, **changes)


def done(options: AttackOptions) -> dict[str, dict[str, Any]]:
    """The summary's perturbations by name; the attack is run once."""
    path = Path(options.out, "summary.json")
    if not path.exists():
        attack(options, Ranks(), CPU)
    return {item["name"]: item for item in json.loads(path.read_text())["perturbations"]}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return request.param


def masked(demo: DemoRuns, model: str) -> AttackOptions:
    return options_for(demo, model, "masked", mask=("full", "freq0-20"))


def objectives(options: AttackOptions, deltas: list[Delta], values: list[np.ndarray]) -> list[float]:
    """The objective of arrays on the fit split."""
    checkpoint = read_checkpoint(options.checkpoint)
    split = open_split(options, options.fit_split, checkpoint, Ranks(), CPU, torch.float32)
    recogniser = checkpoint.build()
    with frozen(recogniser):
        gradients = Gradients(recogniser, Ranks(), Rules(3.0, 0.1, (-2.0, 2.0)))
        return gradients.objectives([delta.spec for delta in deltas], values, split.groups_once(16))


def test_every_attack_beats_its_noise(demo_runs: DemoRuns, model: str) -> None:
    options = masked(demo_runs, model)
    found = done(options)
    for delta in read_deltas(options.out):
        item = found[delta.spec.name]
        clean, reached = item["clean_objective_on_select"], item["objective_on_select"]
        noises = objectives(options, [delta] * 5, [delta.noise(draw) for draw in range(5)])
        logger.info("%s %s: clean %.4f, attacked %.4f, noise %s", model, delta.spec.name, clean, reached, noises)
        assert reached - clean > MARGIN * max(abs(noise - clean) for noise in noises)


def test_more_room_is_never_worse(demo_runs: DemoRuns, model: str) -> None:
    found = done(masked(demo_runs, model))
    for band in ("full", "freq0-20"):
        reached = [found[FULL.format(epsilon).replace("full", band)]["objective_on_select"] for epsilon in EPSILONS]
        assert reached == sorted(reached) and reached[-1] > reached[0]
    for epsilon in EPSILONS:
        name = FULL.format(epsilon)
        assert found[name]["objective_on_select"] >= found[name.replace("full", "freq0-20")]["objective_on_select"]


def test_doubling_the_passes_changes_little(demo_runs: DemoRuns, model: str) -> None:
    once = done(masked(demo_runs, model))[FULL.format(2.0)]
    twice = done(options_for(demo_runs, model, "twice", epsilon=(2.0,), passes=16.0))[FULL.format(2.0)]
    gains = [item["objective_on_select"] - item["clean_objective_on_select"] for item in (once, twice)]
    logger.info("%s: gain %.4f, with twice the passes %.4f", model, *gains)
    assert gains[1] < 1.25 * gains[0]


def scores(demo: DemoRuns, model: str, conditions: list[Condition]) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores of all clips that were not trained on, under each condition, and their targets."""
    options = options_for(demo, model, "none")
    checkpoint = read_checkpoint(options.checkpoint)
    split = open_split(options, ("valid", "select", "eval"), checkpoint, Ranks(), CPU, torch.float32)
    found = list(score_split(checkpoint.build(), split, conditions, 16, 0))
    return [item.scores for item in found], found[0].targets


@pytest.mark.parametrize("model", ["csn", "late"])
def test_without_a_bound_nothing_is_left_but_the_picture(demo_runs: DemoRuns, model: str) -> None:
    options = options_for(demo_runs, model, "unbounded", epsilon=(float("inf"),), alpha=20.0, passes=16.0)
    done(options)
    (delta,) = read_deltas(options.out)
    conditions = [Condition("clean"), Condition("attacked", delta=delta.values, of=delta.id)]
    if model == "late":
        conditions.append(Condition("branch", "branch"))
    found, targets = scores(demo_runs, model, conditions)
    values = [evaluate(one, targets).mean_ap for one in found]
    chance = permutation_chance(found[0], targets, 400).mean_ap
    logger.info("%s: clean and attacked mAP (and the video branch's) %s, %s", model, values, chance)
    assert values[0] > chance.high + 0.02
    if model == "csn":
        assert values[1] <= chance.high
    else:
        assert abs(values[1] - values[2]) < 0.03


def test_objectives_by_what_they_take_from_held_out_clips(demo_runs: DemoRuns, model: str) -> None:
    """An open question, so it is reported and no direction is asked for: only that each is a real attack."""
    objectives = ("bce", "rank", "bounded")
    options = options_for(demo_runs, model, "objectives", epsilon=(30.0,), alpha=6.0, objective=objectives)
    done(options)
    deltas = read_deltas(options.out)
    conditions = [Condition("clean"), *(Condition("attacked", delta=one.values, of=one.id) for one in deltas)]
    found, targets = scores(demo_runs, model, conditions)
    clean, *attacked = (evaluate(one, targets).mean_ap for one in found)
    drops = {delta.spec.objective: clean - value for delta, value in zip(deltas, attacked, strict=True)}
    ratios = {name: drop / drops["bce"] for name, drop in drops.items()}
    logger.info("%s: clean mAP %.3f, drops %s, as parts of bce's %s", model, clean, drops, ratios)
    assert set(drops) == set(objectives) and min(drops.values()) > 0.05
