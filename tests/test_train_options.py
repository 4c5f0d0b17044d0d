"""What train.py is told: every rule, the defaults that follow from others, and what makes a run another run."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from typing import Any

import pytest
import tyro

from models.registry import MODELS
from pipeline.job_options import FREE
from pipeline.options import JOB_VARIABLE
from pipeline.train_options import TrainOptions, absolute_paths

BASE = TrainOptions(store="/s", model="csn", train_split=("train",), valid_split=("valid",), out="/o", width=1 / 32)
LINE = "--store /s --model csn --train-split train --valid-split valid --out /o --width 0.03125"


def test_a_command_line_becomes_options() -> None:
    assert tyro.cli(TrainOptions, args=LINE.split()) == BASE
    more = "--group-size 10 --precision bfloat16 --no-strict --spec-augment --workers 3 --gpu False --warmup 5"
    found = tyro.cli(TrainOptions, args=f"{LINE} {more}".split())
    changes = {"group_size": 10, "precision": "bfloat16", "spec_augment": True, "workers": 3, "gpu": False, "warmup": 5}
    assert found == replace(BASE, **changes)


def test_what_may_be_given_several_times_is_all_kept() -> None:
    line = f"{LINE} --train-split more --valid-split v2 --set dropout=0.1 --set shared_blocks=false"
    line += " --columns a --columns b"
    options = tyro.cli(TrainOptions, args=line.split())
    assert (options.train_split, options.valid_split) == (("train", "more"), ("valid", "v2"))
    assert options.columns == ("a", "b")
    assert options.model_fields() == {"width": 1 / 32, "dropout": 0.1, "shared_blocks": False}


def test_the_defaults_are_the_papers() -> None:
    paper = TrainOptions(store="/s", model="csn", train_split=("train",), valid_split=("valid",), out="/o")
    assert (paper.steps, paper.batch_size, paper.learning_rate, paper.warmup_steps) == (25_000, 300, 4e-4, 1_000)
    assert (paper.seed, paper.order, paper.mixup, paper.spec_augment) == (15_213, "balanced", 0.0, False)
    assert (paper.group, paper.groups_per_step) == (50, 6)


@pytest.mark.parametrize(
    ("batch", "group"), [(1, 1), (12, 12), (50, 50), (51, 17), (64, 32), (100, 50), (53, 1), (256, 32), (300, 50)]
)
def test_groups_are_the_largest_that_divide_the_batch(batch: int, group: int) -> None:
    options = replace(BASE, batch_size=batch)
    assert options.group == group == max(size for size in range(1, min(batch, 50) + 1) if batch % size == 0)
    assert options.groups_per_step * options.group == batch


def test_a_given_group_size_may_be_larger() -> None:
    assert replace(BASE, group_size=150).groups_per_step == 2
    assert replace(BASE, group_size=300).groups_per_step == 1


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 0), (10, 1), (600, 60), (10_000, 1000), (25_000, 1000)])
def test_the_rise_takes_a_tenth_of_a_short_run(steps: int, warmup: int) -> None:
    assert replace(BASE, steps=steps).warmup_steps == warmup
    assert replace(BASE, steps=steps, warmup=0).warmup_steps == 0
    assert replace(BASE, steps=steps, warmup=steps).warmup_steps == steps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "--steps of at least 1, got 0"),
        ({"batch_size": 0}, "--batch-size of at least 1"),
        ({"batch_size": -3}, "--batch-size of at least 1"),
        ({"group_size": 0}, "--group-size of at least 1"),
        ({"evaluate_every": 0}, "--evaluate-every of at least 1"),
        ({"workers": 0}, "--workers of at least 1"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker of at least 1"),
        ({"seed": -1}, "--seed of 0 to 999999999, got -1"),
        ({"reader_threads": -1}, "--reader-threads of 0 or more"),
        ({"mixup": -0.5}, "--mixup of 0 or more"),
        ({"mixup": float("nan")}, "--mixup of 0 or more"),
        ({"mixup": float("inf")}, "--mixup of 0 or more"),
        ({"learning_rate": 0.0}, "--learning-rate of above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate of above 0"),
        ({"learning_rate": float("inf")}, "--learning-rate of above 0"),
        ({"warmup": -1}, "--warmup of 0 to --steps"),
        ({"warmup": 11, "steps": 10}, "--warmup of 0 to --steps, got 11"),
        ({"group_size": 7}, "--group-size of a divisor of the batch, 300, got 7"),
        ({"group_size": 600}, "--group-size of a divisor of the batch"),
        ({"train_split": ()}, "--train-split of one or more"),
        ({"valid_split": ()}, "--valid-split of one or more"),
        ({"precision": "float16"}, "--precision of auto, float32, bfloat16, float64, got float16"),
        ({"order": "random"}, "expected an order of sequential, uniform, windowed, balanced"),
        ({"order": "windowed-0"}, "got 'windowed-0'"),
    ],
    ids=str,
)
def test_every_rule_says_what_it_expected(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(BASE, **change)
    assert words in str(caught.value)


@pytest.mark.parametrize("order", ["balanced", "uniform", "windowed", "windowed-32", "sequential"])
def test_orders_that_readers_know(order: str) -> None:
    assert replace(BASE, order=order).order == order


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "vgg"}, ["csn", "late", "'vgg'"]),
        ({"set": ("depth=3",)}, ["dropout, shared_blocks", "'depth=3'"]),
        ({"set": ("dropout",)}, ["NAME=VALUE", "'dropout'"]),
        ({"set": ("=0.5",)}, ["NAME=VALUE"]),
        ({"set": ("classes=3",)}, ["dropout, shared_blocks", "'classes=3'"]),  # the store's
        ({"set": ("width=0.5",)}, ["dropout, shared_blocks", "'width=0.5'"]),  # --width would say something else
        ({"model": "crnn", "set": ("dropout=0.5",)}, ["a name of none", "'dropout=0.5'"]),
        ({"model": "mid1", "set": ("video_dim=8",)}, ["video_transform", "'video_dim=8'"]),
        ({"set": ("dropout=high",)}, ["CsnConfig.dropout", "a finite number", "'high'"]),
        ({"set": ("dropout=1.0",)}, ["CsnConfig.dropout", "below 1"]),
        ({"set": ("dropout=nan",)}, ["CsnConfig.dropout", "a finite number"]),
        ({"set": ("shared_blocks=1",)}, ["CsnConfig.shared_blocks", "true or false"]),
        ({"model": "mid2", "set": ("video_transform=mean",)}, ["video_transform", "'conv1d', 'raw'", "'mean'"]),
        ({"width": 0.3}, ["CsnConfig.width", "1/32", "0.3"]),
        ({"width": 0.0}, ["CsnConfig.width"]),
    ],
    ids=str,
)
def test_the_models_fields_are_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        replace(BASE, **change)
    assert [word for word in words if word not in str(caught.value)] == []


def test_values_are_read_as_what_they_look_like() -> None:
    settings = (
        "blending=TRUE",
        "dropout=0",
        "blend_audio=0.5",
        "blend_visual=1e-1",
        "blend_joint=.4",
        "video_transform=raw",
    )
    found = replace(BASE, model="mid1", set=settings).model_fields()
    expected = {"blending": True, "dropout": 0, "blend_audio": 0.5, "blend_visual": 0.1, "blend_joint": 0.4}
    assert found == {"width": 1 / 32, **expected, "video_transform": "raw"}
    assert type(found["blending"]) is bool and type(found["dropout"]) is int


@pytest.mark.parametrize("name", MODELS)
def test_every_model_may_be_named(name: str) -> None:
    assert replace(BASE, model=name).model_fields() == {"width": 1 / 32}


# ---------------------------------------------------------------- which run it is

ANOTHER: dict[str, Any] = {
    "store": "/s2", "out": "/o2", "workers": 4, "cpus_per_worker": 1, "reader_threads": 0, "evaluate_every": 7,
    "gpu": True, "model": "late", "train_split": ("other",), "valid_split": ("other",), "columns": ("x",), "width": 0.5,
    "set": ("dropout=0.5",), "steps": 7, "batch_size": 100, "group_size": 10, "seed": 1, "learning_rate": 1e-3,
    "warmup": 3, "order": "uniform", "mixup": 0.5, "spec_augment": True, "normalizer": "/n.npz", "strict": True,
    "precision": "float64", "normalize_video": True,
}  # fmt: skip


def test_every_option_has_another_value_here() -> None:
    assert set(ANOTHER) == {field.name for field in fields(TrainOptions)}


@pytest.mark.parametrize("name", ANOTHER)
def test_what_decides_the_result_makes_another_run_and_nothing_else_does(name: str) -> None:
    same = replace(BASE, **{name: ANOTHER[name]}).decisive() == BASE.decisive()
    assert same == (name in (*FREE, "evaluate_every"))


def test_a_default_and_its_value_written_out_are_one_run() -> None:
    assert replace(BASE, group_size=50, warmup=1000).decisive() == BASE.decisive()


def test_what_decides_goes_through_json() -> None:
    for options in (BASE, replace(BASE, **ANOTHER)):
        assert json.loads(json.dumps(options.decisive())) == options.decisive()


# ---------------------------------------------------------------- paths


def test_local_paths_are_made_absolute_for_workers_elsewhere() -> None:
    fixed = absolute_paths(replace(BASE, store="s", out="runs/o", normalizer="n.npz"), {})
    here = os.getcwd()
    assert (fixed.store, fixed.out, fixed.normalizer) == (f"{here}/s", f"{here}/runs/o", f"{here}/n.npz")
    assert absolute_paths(fixed, {JOB_VARIABLE: "{}"}) == fixed
    remote = replace(BASE, store="s3://b/s", out="gs://b/o")
    assert absolute_paths(remote, {JOB_VARIABLE: "{}"}) == remote


@pytest.mark.parametrize("change", [{"store": "s"}, {"out": "./o"}, {"normalizer": "n.npz"}], ids=str)
def test_inside_a_job_relative_paths_are_refused(change: dict[str, str]) -> None:
    options = replace(BASE, **change)
    with pytest.raises(ValueError, match="throw-away copy: give an absolute path") as caught:
        absolute_paths(options, {JOB_VARIABLE: "{}"})
    [(name, value)] = change.items()
    assert f"--{name} {value} " in str(caught.value)


def test_whether_it_is_a_job_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(BASE, store="s")
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    absolute_paths(options)
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    with pytest.raises(ValueError, match="--store s "):
        absolute_paths(options)


def test_a_normalizer_in_a_bucket_is_refused_before_workers_look_for_it() -> None:
    with pytest.raises(ValueError, match="--normalizer of a file on disk, got s3://b/n.npz"):
        absolute_paths(replace(BASE, normalizer="s3://b/n.npz"), {})
