"""Metrics: scikit-learn to 1e-12 whatever the ties, empty classes left out and counted, the same bits over ranks."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.metrics import CLASSES_AT_ONCE, Metrics, Positives, d_prime, evaluate, finish, local_counts, local_positives

EXACT = {"rtol": 0, "atol": 1e-12, "strict": True}


def sklearn_by_class(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP and AUC by class of scikit-learn, asked only where it has an answer; infinities become ranks for it."""
    size = scores.shape[1]
    ap, auc = np.full(size, np.nan), np.full(size, np.nan)
    for c in range(size):
        one = scores[:, c]
        one = one if np.isfinite(one).all() else np.unique(one, return_inverse=True)[1]
        if targets[:, c].any():
            ap[c] = average_precision_score(targets[:, c], one)
            if not targets[:, c].all():
                auc[c] = roc_auc_score(targets[:, c], one)
    return ap, auc


def check_against_sklearn(scores: np.ndarray, targets: np.ndarray) -> Metrics:
    ap, auc = sklearn_by_class(scores, targets)
    found = evaluate(scores, targets)
    np.testing.assert_allclose(found.ap, ap, **EXACT)
    np.testing.assert_allclose(found.auc, auc, **EXACT)
    np.testing.assert_allclose(found.dprime, np.sqrt(2) * scipy.stats.norm.ppf(auc), rtol=1e-12, atol=1e-12)
    assert found.positives.tolist() == targets.sum(axis=0).tolist()
    return found


def drawn(clips: int, size: int, levels: int | None, prevalence: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know a little of the targets; `levels` makes ties."""
    rng = np.random.default_rng([clips, size, levels or 0])
    targets = rng.random((clips, size)) < prevalence
    scores = (rng.normal(size=(clips, size)) + targets).astype(np.float32)
    return (scores if levels is None else np.round(scores * levels) / levels).astype(np.float32), targets


@pytest.mark.parametrize("levels", [None, 1, 4])
@pytest.mark.parametrize("size", [1, CLASSES_AT_ONCE, CLASSES_AT_ONCE + 3])
def test_equals_sklearn_with_and_without_ties(size: int, levels: int | None) -> None:
    found = check_against_sklearn(*drawn(300, size, levels))
    assert 0.5 < found.mean_auc < 0.95, "a set that shows nothing"


def test_equals_sklearn_in_float64_and_where_neighbours_differ_in_the_last_bit() -> None:
    scores, targets = drawn(200, 3, None, 0.4)
    check_against_sklearn(scores.astype(np.float64), targets)
    close = 1 + np.random.default_rng(0).integers(0, 9, scores.shape) * np.finfo(np.float32).eps
    check_against_sklearn(close.astype(np.float32), targets)


# Few values, so that ties, zeros of both signs, infinities and denormals meet in one class.
VALUES = st.sampled_from([-math.inf, -1.0, -1e-45, -0.0, 0.0, 1e-45, 0.5, 1.0, math.inf])


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    clips, size = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    count = clips * size
    scores = draw(st.lists(VALUES, min_size=count, max_size=count))
    targets = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(scores, np.float32).reshape(clips, size), np.array(targets).reshape(clips, size)


@given(cases())
@settings(deadline=None)
def test_equals_sklearn_on_small_hard_cases(case: tuple[np.ndarray, np.ndarray]) -> None:
    check_against_sklearn(*case)


def test_thousands_of_tied_positives_add_up_without_an_error_that_grows() -> None:
    rng = np.random.default_rng(0)
    targets = rng.random(20_000) < 0.3
    scores = np.round(rng.normal(size=20_000) + targets).astype(np.float32)
    found = evaluate(scores[:, None], targets[:, None])
    ap = auc = Fraction(0)
    positives, negatives = int(targets.sum()), int((~targets).sum())
    for value in np.unique(scores):
        here = int((targets & (scores == value)).sum())
        ap += here * Fraction(int((targets & (scores >= value)).sum()), int((scores >= value).sum()))
        auc += here * (
            int((~targets & (scores < value)).sum()) + Fraction(int((~targets & (scores == value)).sum()), 2)
        )
    assert abs(Fraction(found.ap[0]) - ap / positives) < 2.3e-16
    assert abs(Fraction(found.auc[0]) - auc / (positives * negatives)) < 1.2e-16


def test_by_hand() -> None:
    # Highest first: +, −, then a tie of + and −. AP = 1/2·(1/1) + 1/2·(2/4); AUC = (2 + 1/2) / 4.
    found = evaluate(np.array([[3.0], [2.0], [1.0], [1.0]]), np.array([[1], [0], [1], [0]]))
    assert found.ap.tolist() == [0.75]
    assert found.auc.tolist() == [0.625]
    assert found.dprime_of_mean_auc == pytest.approx(math.sqrt(2) * 0.31863936396437514, abs=1e-14)


def test_empty_and_full_classes_are_nan_left_out_and_counted() -> None:
    scores, targets = drawn(50, 5, None, 0.3)
    targets[:, 1], targets[:, 3] = False, True
    found = check_against_sklearn(scores, targets)
    assert np.isnan(found.ap).tolist() == [False, True, False, False, False]
    assert np.isnan(found.auc).tolist() == [False, True, False, True, False]
    assert (found.ap_classes, found.auc_classes) == (4, 3)
    assert found.mean_ap == pytest.approx(found.ap[[0, 2, 3, 4]].mean(), abs=1e-15)
    assert found.mean_auc == pytest.approx(found.auc[[0, 2, 4]].mean(), abs=1e-15)
    assert found.ap[3] == 1
    assert "(4 of 5 classes)" in str(found)
    assert "(3 of 5)" in str(found)


def test_d_prime_is_that_of_the_mean_auc() -> None:
    found = evaluate(*drawn(400, 6, None))
    assert found.dprime_of_mean_auc == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(found.mean_auc), rel=1e-12)
    assert abs(found.dprime_of_mean_auc - found.dprime.mean()) > 1e-4, "a set that cannot tell the two apart"


@pytest.mark.parametrize("auc", [1e-300, 1e-9, 0.02425, 0.3, 0.5, 0.9, 1 - 1e-9])
def test_d_prime_equals_scipy(auc: float) -> None:
    assert d_prime(auc) == pytest.approx(math.sqrt(2) * scipy.stats.norm.ppf(auc), rel=1e-12)


def test_d_prime_at_the_ends_and_beyond() -> None:
    assert (d_prime(0.0), d_prime(1.0)) == (-math.inf, math.inf)
    assert math.isnan(d_prime(math.nan))
    for impossible in (-0.1, 1.1):
        with pytest.raises(ValueError):
            d_prime(impossible)


def test_one_clip_has_an_ap_and_no_auc() -> None:
    found = evaluate(np.zeros((1, 2), np.float32), np.array([[True, False]]))
    np.testing.assert_array_equal(found.ap, [1, np.nan])
    assert np.isnan(found.auc).all()
    assert math.isnan(found.mean_auc)
    assert math.isnan(found.dprime_of_mean_auc)


def test_as_dict_is_strict_json_with_null_for_what_is_no_number() -> None:
    found = evaluate(np.array([[2.0, 0, 2], [1, 0, 1]]), np.array([[1, 0, 1], [0, 0, 1]]))
    back = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert back["per_class"] == {
        "positives": [1, 0, 2],
        "AP": [1.0, None, 1.0],
        "AUC": [1.0, None, None],
        "d_prime": [None, None, None],
    }
    assert (back["clips"], back["classes"], back["mAP"], back["AUC"], back["d_prime"]) == (2, 3, 1.0, 1.0, None)
    assert (back["mAP_classes"], back["AUC_classes"]) == (2, 1)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32])
def test_targets_may_be_numbers_and_both_may_be_tensors(kind: type) -> None:
    scores, targets = drawn(60, 4, 2)
    wanted = evaluate(scores, targets).as_dict()
    assert evaluate(scores, targets.astype(kind)).as_dict() == wanted
    assert evaluate(torch.from_numpy(scores), torch.from_numpy(targets.astype(kind))).as_dict() == wanted
    half = scores.astype(np.float16)
    assert evaluate(half, targets).as_dict() == evaluate(half.astype(np.float32), targets).as_dict()


def test_the_order_of_clips_and_any_monotone_map_change_nothing() -> None:
    scores, targets = drawn(200, 5, 4)
    wanted = evaluate(scores, targets).as_dict()
    order = np.random.default_rng(1).permutation(200)
    assert evaluate(scores[order], targets[order]).as_dict() == wanted
    assert evaluate(3 * scores - 7, targets).as_dict() == wanted
    assert evaluate(np.asfortranarray(scores), np.asfortranarray(targets)).as_dict() == wanted


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_scores_and_targets_are_left_as_they_are(size: int, order: str) -> None:
    scores, targets = (np.array(array, order=order) for array in drawn(30, size, 2))
    before = scores.copy(), targets.copy()
    evaluate(scores, targets)
    np.testing.assert_array_equal(scores, before[0])
    np.testing.assert_array_equal(targets, before[1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place", [(0, 0), (49, 2)])
def test_nan_raises_and_says_where(place: tuple[int, int]) -> None:
    scores, targets = drawn(50, 3, None)
    scores[place] = np.nan
    scores[10, 1] = np.inf
    with pytest.raises(ValueError, match=f"got 1 of 150, the first in row {place[0]}, class {place[1]}"):
        evaluate(scores, targets)


def test_what_does_not_fit_is_refused() -> None:
    scores, targets = drawn(10, 3, None)
    for bad in (scores[0], scores.astype(np.int64), targets, torch.ones(10, 3, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="scores"):
            evaluate(bad, targets)
    with pytest.raises(ValueError, match="detach"):
        evaluate(torch.ones(10, 3, requires_grad=True), targets)
    for bad in (targets[:9], targets[:, :2], targets[:, 0]):
        with pytest.raises(ValueError, match="targets: shape"):
            evaluate(scores, bad)
    for value in (0.5, 2.0, -1.0, np.nan):
        soft = targets.astype(np.float32)
        soft[4, 1] = value
        with pytest.raises(ValueError, match="only 0 and 1"):
            evaluate(scores, soft)


def over_ranks(scores: np.ndarray, targets: np.ndarray, cuts: list[int]) -> Metrics:
    """The three steps with plain lists in place of collectives; share i is what lies between cuts i and i+1."""
    shares = [slice(*pair) for pair in zip([0, *cuts], [*cuts, len(scores)], strict=True)]
    positives = Positives.gather([local_positives(scores[share], targets[share]) for share in shares])
    return finish(positives, sum(local_counts(scores[share], positives) for share in shares))


@given(st.data(), cases(), st.sampled_from([1, 2, 3, 8]))
@settings(deadline=None)
def test_any_shares_on_any_number_of_ranks_give_the_same_bits(data: st.DataObject, case: tuple, ranks: int) -> None:
    scores, targets = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), min_size=ranks - 1, max_size=ranks - 1)))
    order = data.draw(st.permutations(range(len(scores))))
    found, wanted = over_ranks(scores[order], targets[order], cuts), evaluate(scores, targets)
    for name in ("positives", "ap", "auc", "dprime"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), strict=True)
    np.testing.assert_array_equal([found.mean_ap, found.mean_auc], [wanted.mean_ap, wanted.mean_auc])
    assert found.as_dict() == wanted.as_dict()


@pytest.mark.parametrize("cuts", [[], [2999], [0, 17], [1, 1, 300, 900, 900, 1500, 2999]])
def test_larger_uneven_shares_give_the_same_bits(cuts: list[int]) -> None:
    scores, targets = drawn(3000, 20, None)
    assert over_ranks(scores, targets, cuts).as_dict() == evaluate(scores, targets).as_dict()


def test_no_clips_at_all_are_no_error_on_a_rank_and_nan_in_total() -> None:
    found = evaluate(np.zeros((0, 3), np.float32), np.zeros((0, 3), bool))
    assert (found.clips, found.ap_classes, found.auc_classes) == (0, 0, 0)
    assert math.isnan(found.mean_ap)
    assert found.as_dict()["mAP"] is None


def test_steps_refuse_what_other_steps_did_not_make() -> None:
    scores, targets = drawn(10, 3, None, 0.5)
    positives = local_positives(scores, targets)
    with pytest.raises(ValueError, match=r"number of classes, got \[2, 3\]"):
        Positives.gather([positives, local_positives(scores[:, :2], targets[:, :2])])
    with pytest.raises(ValueError, match="one number of classes"):
        Positives.gather([])
    with pytest.raises(ValueError, match="scores of 3 classes"):
        local_counts(scores[:, :2], positives)
    with pytest.raises(ValueError, match="expected counts"):
        finish(positives, local_counts(scores, positives)[:, 1:])
