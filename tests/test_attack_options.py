"""What the attack's flags make: one perturbation for each combination, and words for what cannot be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from attacks.attack_options import AttackOptions, absolute_paths
from pipeline.options import JOB_VARIABLE

NEEDED = ["--store", "s", "--checkpoint", "c/best.pt", "--fit-split", "train", "--select-split", "select"]
NEEDED += ["--alpha", "0.01", "--out", "o"]


def parsed(*more: str) -> AttackOptions:
    return tyro.cli(AttackOptions, args=[*NEEDED, *more])


def test_one_perturbation_where_nothing_is_said() -> None:
    (spec,) = parsed().specs()
    assert spec.name == "projected-l2-clip-eps0.3-full-bce-s15213"
    assert (parsed().group, parsed().groups_per_step) == (50, 6)


def test_every_list_multiplies() -> None:
    options = parsed(
        *("--epsilon", "0.1", "--epsilon", "0.3", "--objective", "bce", "--objective", "rank", "--seed", "1"),
        *("--seed", "2", "--freq", "0:20", "--freq", "20:40", "--time", "0:200", "--norm", "2", "--norm", "inf"),
    )
    specs = options.specs()
    assert len(specs) == len({spec.name for spec in specs}) == 2 * 2 * 2 * 2 * 2
    assert {spec.mask.name for spec in specs} == {"freq0-20_time0-200", "freq20-40_time0-200"}


def test_smaller_ones_come_first() -> None:
    masks = ("full", "freq0-20", "time200-400")
    specs = parsed(*(word for name in masks for word in ("--mask", name)), "--epsilon", "3", "--epsilon", "0.5").specs()
    for place, spec in enumerate(specs):
        assert not any(spec.within(earlier) for earlier in specs[:place])


def test_the_accumulated_rule_has_no_scope_to_choose() -> None:
    flags = ("--rule", "accumulated", "--rule", "projected", "--scope", "clip", "--scope", "frame")
    found = sorted((spec.rule, spec.scope) for spec in parsed(*flags).specs())
    assert found == [("accumulated", "frame"), ("projected", "clip"), ("projected", "frame")]


def test_no_bound() -> None:
    assert parsed("--epsilon", "inf").specs()[0].epsilon == math.inf
    assert parsed("--epsilon", "inf").decisive()["epsilon"] == ["inf"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": 0.0}, "--alpha of above 0"),
        ({"alpha": math.nan}, "--alpha"),
        ({"passes": -1.0}, "--passes"),
        ({"epsilon": (-0.1,)}, "--epsilon of 0 or more"),
        ({"epsilon": (math.nan,)}, "--epsilon"),
        ({"epsilon": (0.1, 0.1)}, "each once"),
        ({"fit_split": ()}, "--fit-split"),
        ({"batch_size": 0}, "--batch-size"),
        ({"group_size": 7}, "--group-size of a divisor of the batch, 300"),
        ({"clamp": (2.0, -2.0)}, "--clamp"),
        ({"mask": ("full",), "freq": ("0:20",)}, "--mask"),
        ({"mask": ("fool",)}, "expected full"),
        ({"freq": ("20:0",)}, "freq band"),
        ({"seed": (1, -1)}, "--seed of 0 to 999999999"),
        ({"order": "random"}, "expected an order of"),
        ({"freq": ("0:64", "0:64")}, "masks that differ"),
        ({"rule": ("accumulated",), "objective": ("rank",)}, "rule accumulated"),
        ({"rule": ("accumulated",), "epsilon": (math.inf,)}, "finite"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(parsed(), **changes)


def test_what_decides_the_result() -> None:
    options = parsed()
    for changes in ({"workers": 3}, {"out": "elsewhere"}, {"store": "copy"}, {"checkpoint_every": 7}):
        assert replace(options, **changes).decisive() == options.decisive()
    for changes in ({"alpha": 0.02}, {"seed": (1,)}, {"passes": 2.0}, {"evaluate_every": 3}, {"batch_size": 150}):
        assert replace(options, **changes).decisive() != options.decisive()


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = absolute_paths(parsed(), {})
    assert (made.store, made.checkpoint, made.out) == tuple(f"{tmp_path}/{name}" for name in ("s", "c/best.pt", "o"))
    with pytest.raises(ValueError, match="--store s is relative"):
        absolute_paths(parsed(), {JOB_VARIABLE: "1"})
