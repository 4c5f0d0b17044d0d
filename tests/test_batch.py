"""Batches: labels as rows of a table and as a matrix."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from stores.batch import Batch, select_labels
from stores.position import Position

tables = st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), min_size=1, max_size=12)


def batch_of(lists: list[list[int]]) -> Batch:
    position = Position("d", "uniform", 0, 0, 0)
    offsets = np.cumsum([0, *map(len, lists)])
    labels = np.array([label for row in lists for label in row], np.int16)
    keys = [str(number) for number in range(len(lists))]
    arrays = {"logmel": np.zeros((len(lists), 2))}
    index = np.arange(len(lists))
    return Batch(keys, index, arrays, offsets, labels, {}, 0, position, position, 0, False, False)


@settings(max_examples=50, deadline=None)
@given(tables, st.lists(st.integers(0, 11), max_size=20))
def test_rows_are_selected_as_from_a_list_of_lists(lists: list[list[int]], wanted: list[int]) -> None:
    index = np.array([number % len(lists) for number in wanted], np.int64)
    table = batch_of(lists)
    offsets, labels = select_labels(table.label_offsets, table.labels, index)
    found = [labels[a:b].tolist() for a, b in pairwise(offsets)]
    assert found == [lists[i] for i in index]


@settings(max_examples=50, deadline=None)
@given(tables)
def test_multi_hot_is_that_of_scikit_learn(lists: list[list[int]]) -> None:
    expected = MultiLabelBinarizer(classes=range(10)).fit_transform(lists)
    found = batch_of(lists).multi_hot(10)
    assert found.dtype == bool
    assert np.array_equal(found, expected)


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 classes, got 7"):
        batch_of([[7]]).multi_hot(7)


def test_without_arrays_all_else_stays() -> None:
    batch = batch_of([[1], [2, 3]])
    bare = batch.without_arrays()
    assert (bare.keys, len(bare), bare.arrays) == (batch.keys, 2, {})
    assert len(batch.arrays) == 1
