"""Running statistics of a step in groups, against numpy's means and variances in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.batchnorm import GroupStatistics

MOMENTA = (0.1, 0.37)


def two_norms() -> nn.Sequential:
    """A BatchNorm over [n, 3] and one over [n, 2, …] with another momentum, neither as new."""
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=MOMENTA[0]), nn.BatchNorm2d(2, momentum=MOMENTA[1])).double()
    generator = torch.Generator().manual_seed(0)
    for norm in model:
        norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))
        norm.num_batches_tracked.fill_(7)
    return model


def groups_of(sizes: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    shapes = [((size, 3), (size, 2, 4, 5)) for size in sizes]
    return [tuple(5 + 3 * torch.randn(s, generator=generator, dtype=torch.float64) for s in both) for both in shapes]


def run(model: nn.Sequential, groups: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> GroupStatistics:
    """The groups' forward passes within a step."""
    return run_in(GroupStatistics(model), model, groups)[0]


def run_in(
    statistics: GroupStatistics, model: nn.Sequential, groups: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[GroupStatistics, list[torch.Tensor]]:
    """The same, and the sums of what the groups gave."""
    sums = [torch.zeros(shape, dtype=torch.float64) for shape in statistics.shapes]
    with statistics.step():
        for flat, picture in groups:
            statistics.begin_group()
            model[0](flat)
            model[1](picture)
            sums = [total + part for total, part in zip(sums, statistics.group(), strict=True)]
    return statistics, sums


def state_of(model: nn.Module) -> list[np.ndarray]:
    return [value.numpy().copy() for value in model.state_dict().values()]


def expected(before: Sequence[np.ndarray], groups: Sequence[np.ndarray], momentum: float) -> list[np.ndarray]:
    """(1 − m)·old + m·mean over groups, of the mean and of the unbiased variance by channel."""
    axes = tuple(axis for axis in range(groups[0].ndim) if axis != 1)
    measured = [[g.mean(axis=axes) for g in groups], [g.var(axis=axes, ddof=1) for g in groups]]
    return [(1 - momentum) * old + momentum * np.mean(new, axis=0) for old, new in zip(before, measured, strict=True)]


@pytest.mark.parametrize("sizes", [(4,), (4, 4, 4), (5, 2, 9, 3)])
def test_statistics_move_by_one_momentum_towards_the_mean_over_groups(sizes: tuple[int, ...]) -> None:
    model, groups = two_norms(), groups_of(sizes)
    before = [(norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()) for norm in model]
    statistics, sums = run_in(GroupStatistics(model), model, groups)
    statistics.update(sums, len(groups))
    for number, norm in enumerate(model):
        mean, variance = expected(before[number], [group[number].numpy() for group in groups], MOMENTA[number])
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-13)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-13)
        assert int(norm.num_batches_tracked) == 8
        assert norm.momentum == MOMENTA[number]


def test_one_group_is_torchs_own_update() -> None:
    model, reference, groups = two_norms(), two_norms(), groups_of((6,))
    statistics, sums = run_in(GroupStatistics(model), model, groups)
    statistics.update(sums, 1)
    for norm, values in zip(reference, groups[0], strict=True):
        norm(values)
    for found, wanted in zip(state_of(model), state_of(reference), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-14)


def test_the_same_however_ranks_share_the_groups() -> None:
    groups = groups_of((4, 3, 5, 2, 6))
    alone = two_norms()
    statistics, sums = run_in(GroupStatistics(alone), alone, groups)
    statistics.update(sums, 5)
    for shares in (([0, 2, 4], [1, 3]), ([0, 3], [1, 4], [2]), ([0, 1, 2, 3, 4], [])):
        ranks = [two_norms() for _ in shares]
        pairs = zip(ranks, shares, strict=True)
        each = [run_in(GroupStatistics(model), model, [groups[i] for i in share]) for model, share in pairs]
        sums = [torch.stack(parts).sum(0) for parts in zip(*(part for _, part in each), strict=True)]
        for model, (part, _) in zip(ranks, each, strict=True):
            part.update(sums, 5)
            for found, wanted in zip(state_of(model), state_of(alone), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_steps_follow_each_other_and_leave_earlier_sums_behind() -> None:
    model, (first, second) = two_norms(), (groups_of((4, 3)), groups_of((2, 6, 5)))
    statistics = GroupStatistics(model)
    before = [(norm.running_mean.numpy().copy(), norm.running_var.numpy().copy()) for norm in model]
    for groups in (first, second):
        statistics.update(run_in(statistics, model, groups)[1], len(groups))
    for number, norm in enumerate(model):
        between = expected(before[number], [group[number].numpy() for group in first], MOMENTA[number])
        mean, variance = expected(between, [group[number].numpy() for group in second], MOMENTA[number])
        np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-13)
        np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-13)


def test_without_an_update_a_step_leaves_no_trace() -> None:
    model = two_norms()
    before = state_of(model)
    run(model, groups_of((4, 3)))
    assert all(np.array_equal(found, old) for found, old in zip(state_of(model), before, strict=True))


def test_an_exception_within_a_step_leaves_statistics_and_momenta_as_they_were() -> None:
    model = two_norms()
    before, before_mean = state_of(model), model[0].running_mean.clone()
    statistics = GroupStatistics(model)
    with pytest.raises(RuntimeError, match="shard"), statistics.step():
        for flat, picture in groups_of((4, 3)):
            statistics.begin_group()
            model[0](flat)
            model[1](picture)
        assert (model[0].running_mean - before_mean).abs().min() > 1e-3  # so there is something to restore
        raise RuntimeError("shard")
    assert all(np.array_equal(found, old) for found, old in zip(state_of(model), before, strict=True))
    assert tuple(norm.momentum for norm in model) == MOMENTA


def test_what_a_pass_does_not_reach_is_zero() -> None:
    model, groups = two_norms(), groups_of((4, 3))
    statistics = GroupStatistics(model)
    assert statistics.shapes == [(3,), (3,), (2,), (2,)]
    with statistics.step():
        statistics.begin_group()
        model[0](groups[0][0])
        model[1](groups[0][1])
        statistics.begin_group()
        model[1](groups[1][1])  # the first one's statistics are those of another group by now
        mean, variance, *others = [part.clone() for part in statistics.group()]
    assert not mean.any() and not variance.any()
    np.testing.assert_allclose(others[0].numpy(), groups[1][1].numpy().mean(axis=(0, 2, 3)), rtol=1e-13)


def test_models_without_batch_norm_have_no_sums() -> None:
    model = nn.Linear(3, 2)
    statistics = GroupStatistics(model)
    with statistics.step():
        statistics.begin_group()
        model(torch.ones(2, 3))
        assert statistics.group() == statistics.shapes == []
    statistics.update([], 1)


def test_norms_that_track_nothing_are_left_alone() -> None:
    model = nn.BatchNorm1d(3, track_running_stats=False)
    statistics = GroupStatistics(model)
    with statistics.step():
        statistics.begin_group()
        model(torch.randn(4, 3))
        assert statistics.group() == statistics.shapes == []
    assert model.running_mean is None


def test_cumulative_averages_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        GroupStatistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None)))
