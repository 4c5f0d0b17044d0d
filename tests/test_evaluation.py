"""Scores of batches and their metrics: modes, empty batches and ranks, scikit-learn as the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from small_models import CLASSES, random_clips, small_model, stir_batch_norms
from torch import Tensor, nn

from models.evaluation import evaluating, metrics_over, scores_of
from models.metrics import Metrics
from models.ranks import Ranks

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def model_with_a_frozen_part() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)))
    model.train()
    model[1][1].eval()  # someone keeps it frozen in training
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_gets_its_mode_back() -> None:
    model = model_with_a_frozen_part()
    before = modes(model)
    assert len(set(before)) == 2
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_modes_come_back_after_an_exception_too() -> None:
    model = model_with_a_frozen_part()
    before = modes(model)
    with pytest.raises(OSError, match="gone"), evaluating(model):
        raise OSError("gone")
    assert modes(model) == before

    def batches() -> Iterator[dict[str, Tensor]]:
        yield {"logmel": torch.zeros(2, 400, 64)}
        raise OSError("gone")

    csn = small_model("csn", width=1 / 32)
    with pytest.raises(OSError, match="gone"):
        scores_of(csn, batches(), CLASSES)
    assert all(modes(csn))


def test_scores_are_those_of_eval_mode_and_nothing_of_the_model_moves() -> None:
    model = small_model("csn", width=1 / 32)  # dropout 0.75: in training mode no two passes agree
    stir_batch_norms(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [{"logmel": part} for part in random_clips(5)["logmel"].split((2, 3))]
    found = scores_of(model, batches, CLASSES)
    assert (found.shape, found.dtype) == ((5, CLASSES), np.float32)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = torch.cat([model.eval()(batch) for batch in batches])
    np.testing.assert_array_equal(found, expected.numpy())


def test_empty_batches_are_skipped_and_none_at_all_gives_no_rows() -> None:
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            seen.append(len(inputs["logmel"]))
            return inputs["logmel"][:, :3]

    values = torch.arange(20.0).reshape(4, 5)
    batches = [{"logmel": part} for part in values.split((0, 3, 0, 1, 0))]
    np.testing.assert_array_equal(scores_of(Counting(), batches, 3), values[:, :3].numpy())
    assert seen == [3, 1]
    for none in ([], [{"logmel": values[:0]}]):
        found = scores_of(Counting(), none, 7)
        assert (found.shape, found.dtype) == ((0, 7), np.float32)


def test_float64_and_autocast() -> None:
    clips = random_clips(3)
    model = small_model("csn", width=1 / 32)
    plain = scores_of(model, [clips], CLASSES)
    low = scores_of(model, [clips], CLASSES, torch.bfloat16)
    assert low.dtype == np.float32
    assert 0 < np.abs(low - plain).max() < 0.1
    wide = scores_of(model.double(), [{name: value.double() for name, value in clips.items()}], CLASSES)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(plain, wide, atol=1e-4)


class Shared(Ranks):
    """One rank of several that live in one process: `gather` gives what all said at the same turn."""

    def __init__(self, rank: int, said: list[list[Any]]) -> None:
        super().__init__(rank, len(said))
        self._said, self._turn = said, 0

    def gather(self, value: Any) -> list[Any]:
        """Raises LookupError where the others have not spoken yet."""
        mine = self._said[self.rank]
        if len(mine) == self._turn:
            mine.append(value)
        self._turn += 1
        return [said[self._turn - 1] for said in self._said]


def over_ranks(scores: np.ndarray, targets: np.ndarray, shares: list[list[int]]) -> list[Metrics]:
    """Every rank's metrics; each speaks as far as it can until all have all they need."""
    said: list[list[Any]] = [[] for _ in shares]
    found: dict[int, Metrics] = {}
    for _ in range(3):
        for rank, share in enumerate(shares):
            try:
                found[rank] = metrics_over(Shared(rank, said), scores[share], targets[share])
            except LookupError:
                continue
    return [found[rank] for rank in range(len(shares))]


def noise(clips: int = 60, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties and with something in them; the last class has no positive."""
    random = np.random.default_rng(0)
    targets = random.random((clips, classes)) < 0.3
    targets[:, -1] = False
    return np.round(random.normal(size=(clips, classes)) + targets, 1).astype(np.float32), targets


def test_alone_the_metrics_are_scikit_learns() -> None:
    scores, targets = noise()
    metrics = metrics_over(Ranks(), scores, targets)
    for number in range(5):
        assert metrics.ap[number] == pytest.approx(
            average_precision_score(targets[:, number], scores[:, number]), abs=1e-12
        )
        assert metrics.auc[number] == pytest.approx(roc_auc_score(targets[:, number], scores[:, number]), abs=1e-12)
    assert np.isnan(metrics.ap[5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metrics.mean_ap == pytest.approx(average_precision_score(targets[:, :5], scores[:, :5]), abs=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_same_bits_from_any_shares_on_every_rank(ranks: int) -> None:
    scores, targets = noise()
    alone = metrics_over(Ranks(), scores, targets)
    shuffled = np.random.default_rng(ranks).permutation(60)
    uneven = [part.tolist() for part in np.split(shuffled, sorted((7, 50, 50, 51)[: ranks - 1]))]
    assert sorted(clip for part in uneven for clip in part) == list(range(60))
    for metrics in over_ranks(scores, targets, uneven):
        assert metrics.clips == 60
        for name in ("positives", "ap", "auc", "dprime"):
            np.testing.assert_array_equal(getattr(metrics, name), getattr(alone, name))


def test_ranks_without_a_clip_take_part() -> None:
    scores, targets = noise(10)
    alone = metrics_over(Ranks(), scores, targets)
    for metrics in over_ranks(scores, targets, [[], list(range(10)), []]):
        np.testing.assert_array_equal(metrics.ap, alone.ap)
    nobody = metrics_over(Ranks(), scores[:0], targets[:0])
    assert nobody.clips == 0
    assert nobody.as_dict()["mAP"] is None


def test_scores_that_are_no_numbers_are_refused() -> None:
    scores, targets = noise(10)
    scores[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metrics_over(Ranks(), scores, targets)
