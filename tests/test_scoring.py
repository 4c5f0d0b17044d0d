"""Scores under conditions against the model itself, and the share of a change that is a constant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from store_factory import make_wide_store
from training_runs import LOGMEL, VIDEO

from attacks import scoring
from attacks.conditions import Condition
from attacks.perturbation import SHAPE
from attacks.scoring import Scored, constant_share, metrics_of, score_split
from models.metrics import evaluate
from models.ranks import Ranks
from models.recogniser import Recogniser
from models.registry import build
from stores.snapshot import Snapshot
from stores.split_reader import SplitReader

CLIPS = 11


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> SplitReader:
    store = make_wide_store(str(tmp_path_factory.mktemp("store")), CLIPS, split="eval", columns=(LOGMEL, VIDEO))
    columns = {"logmel": LOGMEL.column, "video": VIDEO.column}
    snapshot = Snapshot.open(store, ("eval",), list(columns.values()))
    return SplitReader(snapshot, columns, {}, torch.device("cpu"), torch.float32, Ranks())


@pytest.fixture(scope="module")
def late(split: SplitReader) -> Recogniser:
    torch.manual_seed(0)
    return build("late", width=1 / 32, classes=split.snapshot.class_count, video_dim=16).eval()


DELTA = (0.5 * np.random.default_rng(0).standard_normal(SHAPE)).astype(np.float32)
CONDITIONS = [
    Condition("clean"),
    Condition("shuffled", "shuffled"),
    Condition("silent", "silent"),
    Condition("branch", "branch"),
    Condition("attacked", delta=DELTA, of="d"),
]


def by_hand(model: Recogniser, split: SplitReader) -> dict[str, np.ndarray]:
    (whole,) = split.once(CLIPS)
    inputs = whole[1]
    with torch.no_grad():
        return {
            "clean": model(inputs).numpy(),
            "silent": model({**inputs, "logmel": torch.zeros_like(inputs["logmel"])}).numpy(),
            "branch": model.video(inputs).numpy(),
            "attacked": model({**inputs, "logmel": inputs["logmel"] + torch.from_numpy(DELTA)}).numpy(),
        }


@pytest.mark.parametrize("at_once", [10**9, 1])
def test_scores_are_the_models_own(
    late: Recogniser, split: SplitReader, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", at_once)
    found = {item.condition.kind: item for item in score_split(late, split, CONDITIONS, 4, 7)}
    assert list(found) == [item.kind for item in CONDITIONS]
    for kind, expected in by_hand(late, split).items():
        np.testing.assert_allclose(found[kind].scores, expected, rtol=1e-4, atol=1e-5)
    assert all(len(set(item.keys)) == CLIPS and item.targets.shape == item.scores.shape for item in found.values())


def test_a_shuffled_sound_is_that_of_another_clip(late: Recogniser, split: SplitReader) -> None:
    """Each clip's score is that of its own picture with one of the split's sounds, and all sounds are used once."""
    (whole,) = split.once(CLIPS)
    sounds, pictures = whole[1]["logmel"], whole[1]["video"]
    (shuffled,) = score_split(late, split, CONDITIONS[1:2], CLIPS, 7)
    used = []
    with torch.no_grad():
        for row, scores in enumerate(shuffled.scores):
            every = late({"logmel": sounds, "video": pictures[row].expand(CLIPS, -1, -1)}).numpy()
            distance = np.abs(every - scores).max(1)
            assert distance.min() < 1e-4
            used.append(int(distance.argmin()))
    assert sorted(used) == list(range(CLIPS))
    assert used != list(range(CLIPS))


def test_ranks_share_the_clips(late: Recogniser, split: SplitReader) -> None:
    alone = {item.condition.kind: item for item in score_split(late, split, CONDITIONS, 3, 7)}
    rows: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in alone}
    for rank in range(3):
        for item in score_split(late, replace(split, ranks=Ranks(rank, 3)), CONDITIONS, 3, 7):
            rows[item.condition.kind] |= dict(zip(item.keys, item.scores, strict=True))
    for kind, whole in alone.items():
        np.testing.assert_array_equal(np.stack([rows[kind][key] for key in whole.keys]), whole.scores)


def test_metrics() -> None:
    generator = np.random.default_rng(0)
    scores, targets = generator.standard_normal((9, 3)).astype(np.float32), generator.random((9, 3)) < 0.4
    found = metrics_of(Ranks(), Scored(CONDITIONS[0], [], scores, targets))
    assert found.mean_ap == evaluate(scores, targets).mean_ap


def test_the_share_of_a_constant() -> None:
    generator = np.random.default_rng(0)
    clean = generator.standard_normal((50, 4))
    shift = np.array([1.0, -2.0, 0.5, 3.0])
    assert constant_share(Ranks(), clean, clean + shift) == pytest.approx(1.0, abs=1e-12)
    noise = generator.standard_normal((50, 4))
    noise -= noise.mean(0)
    assert constant_share(Ranks(), clean, clean + noise) == pytest.approx(0.0, abs=1e-12)
    both = np.square(shift).sum() * 50 / (np.square(shift).sum() * 50 + np.square(noise).sum())
    assert constant_share(Ranks(), clean, clean + shift + noise) == pytest.approx(both, rel=1e-12)
    assert np.isnan(constant_share(Ranks(), clean, clean))


def test_no_clip_of_its_own(tmp_path: Path, late: Recogniser, split: SplitReader) -> None:
    """A rank may have none."""
    from dataclasses import replace

    (item,) = score_split(late, replace(split, ranks=Ranks(5, 6)), CONDITIONS[:1], 4, 7)
    assert item.scores.shape == (0, split.snapshot.class_count) and item.keys == []
