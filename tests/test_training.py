"""Whole runs on real ranks: the same on any number of them, and the same when they were killed on the way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import lines_of, losses, make_training_store, one_thread, small_options, train_on

from models.metrics import evaluate
from models.ranks import Ranks
from pipeline.run_folder import BEST, LAST, RunFolder
from pipeline.train_options import TrainOptions
from pipeline.training import train
from pipeline.training_step import NonFiniteLoss
from stores.normalizer import Normalizer
from stores.scores import read_scores
from stores.snapshot import Snapshot
from stores.split_reader import SplitReader

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_training_store(tmp_path_factory.mktemp("store"))


def train_here(options: TrainOptions) -> Path:
    """Trains in this process, alone."""
    with one_thread():
        train(options, Ranks(), CPU)
    return Path(options.out)


def weights_of(out: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    checkpoint = RunFolder(str(out)).read(name)
    assert checkpoint is not None
    return dict(checkpoint.weights)


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit: losses, weights, evaluations, scores."""
    assert losses(one) == losses(other)
    for name in (LAST, BEST):
        left, right = weights_of(one, name), weights_of(other, name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    assert [line for line in lines_of(one) if "valid" in line] == [line for line in lines_of(other) if "valid" in line]
    assert (one / "scores/valid.parquet").read_bytes() == (other / "scores/valid.parquet").read_bytes()


# ---------------------------------------------------------------- any number of ranks


def test_one_two_and_three_ranks_train_the_same_bits(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path, precision="float64", steps=12, warmup=4, evaluate_every=12)
    # Three groups: 3, 2 + 1, 1 + 1 + 1. Width and clips are as small as they are so that a dozen steps take seconds.
    options = replace(options, batch_size=3, group_size=1)
    runs = {ranks: replace(options, out=str(tmp_path / str(ranks))) for ranks in (1, 2, 3)}
    for ranks, run in runs.items():
        assert train_on(ranks, run) == [0] * ranks
    alone = losses(tmp_path / "1")
    assert len(alone) == 12
    assert alone[-1] < alone[0]  # it learns its noise by heart
    assert_same(tmp_path / "2", tmp_path / "1")
    assert_same(tmp_path / "3", tmp_path / "1")


@pytest.mark.slow  # tests/e2e/test_train.py compares float32 too
def test_more_ranks_than_groups_train_the_same_bits_in_float32(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path, precision="float32", steps=6, warmup=3, evaluate_every=6)
    options = replace(options, batch_size=2, group_size=1, set=("dropout=0.5",))
    train_here(replace(options, out=str(tmp_path / "1")))
    assert train_on(3, replace(options, out=str(tmp_path / "3"))) == [0, 0, 0]
    assert_same(tmp_path / "3", tmp_path / "1")


# ---------------------------------------------------------------- killed and taken up again


@pytest.fixture(scope="module")
def uninterrupted(store: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainOptions, Path]:
    """A run with dropout and mixup on that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    options = small_options(store, out, set=("dropout=0.5",), mixup=0.5, steps=5, evaluate_every=2, batch_size=6)
    return options, train_here(options)


@pytest.mark.parametrize(
    ("kill", "left"),
    [
        ("group:8", 2),  # in the middle of the third step's accumulation
        ("write:last.pt:2", 2),  # the second checkpoint is written, but not put in its place
        pytest.param("write:best.pt:1", 0, marks=pytest.mark.slow),  # no checkpoint at all is there
        pytest.param("write:metrics.jsonl:2", 2, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    uninterrupted: tuple[TrainOptions, Path], tmp_path: Path, kill: str, left: int
) -> None:
    options, whole = uninterrupted
    options = replace(options, out=str(tmp_path / "run"))
    assert train_on(1, options, kill) == [-9]
    last = RunFolder(options.out).read(LAST)
    assert (0 if last is None else last.step) == left
    assert_same(train_here(options), whole)


def test_a_run_goes_on_with_another_number_of_ranks(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path / "whole", precision="float64", set=("dropout=0.5",), steps=4, batch_size=6)
    whole = train_here(options)
    options = replace(options, out=str(tmp_path / "cut"))
    assert train_on(1, options, "group:9")[0] == -9  # in the third step; two are in the checkpoint
    assert train_on(2, options) == [0, 0]
    assert_same(tmp_path / "cut", whole)


def test_a_run_that_has_ended_is_left_as_it_is(uninterrupted: tuple[TrainOptions, Path]) -> None:
    options, out = uninterrupted
    before = {path: path.read_bytes() for path in (out / LAST, out / BEST, out / "metrics.jsonl")}
    train_here(options)
    assert all(path.read_bytes() == data for path, data in before.items())


# ---------------------------------------------------------------- what it leaves


def test_stored_scores_are_the_best_checkpoints(uninterrupted: tuple[TrainOptions, Path], store: str) -> None:
    options, out = uninterrupted
    best = RunFolder(str(out)).read(BEST)
    assert best is not None
    stored = read_scores(RunFolder(str(out)).storage, "scores/valid.parquet")
    snapshot = Snapshot.open(store, "valid", [best.columns["logmel"]])
    normalizer = Normalizer(*(best.normalizers["logmel"][name].numpy() for name in ("mean", "std")))
    reader = SplitReader(snapshot, best.columns, {"logmel": normalizer}, CPU, torch.float32, Ranks())
    model = best.build()
    again = {}
    with torch.inference_mode():
        for keys, inputs, _ in reader.once(options.group):
            again |= dict(zip(keys, model(inputs).numpy(), strict=True))
    np.testing.assert_allclose(stored.scores, [again[key] for key in stored.keys], rtol=0, atol=1e-5)
    assert evaluate(stored.scores, stored.targets).mean_ap == pytest.approx(best.metrics["mAP"], abs=1e-12)
    evaluations = [line for line in lines_of(out) if "valid" in line]
    assert best.metrics["mAP"] == max(line["valid"]["mAP"] for line in evaluations)
    assert best.step == next(line["step"] for line in evaluations if line["valid"]["mAP"] == best.metrics["mAP"])
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((out / "events").iterdir())


def test_a_fusion_model_reads_both_columns(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path, model="mid1", steps=2, set=("dropout=0.0", "blending=true"))
    out = train_here(options)
    best = RunFolder(str(out)).read(BEST)
    assert best is not None
    assert set(best.columns) == {"logmel", "video"}
    assert best.model["video_dim"] == 16
    assert math.isfinite(losses(out)[-1])


# ---------------------------------------------------------------- what ends it


def test_a_loss_that_is_not_finite_ends_the_run_and_harms_no_checkpoint(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path, learning_rate=1e30, warmup=0, steps=8, evaluate_every=1)
    with pytest.raises(NonFiniteLoss, match=r"step \d"):
        train_here(options)
    last = RunFolder(str(tmp_path)).read(LAST)
    assert last is None or all(torch.isfinite(value).all() for value in last.weights.values())


def test_other_columns_do_not_go_on_with_a_run(store: str, tmp_path: Path) -> None:
    options = small_options(store, tmp_path, steps=2)
    train_here(options)
    folder = RunFolder(str(tmp_path))
    last = folder.read(LAST)
    assert last is not None
    folder.storage.publish(LAST, replace(last, columns={"logmel": "logmel-00000000"}).to_bytes())
    with pytest.raises(ValueError, match="--columns"):
        train_here(options)
