"""Specs: canonical, and any constant changes the column's name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores.specs import Spec, canonical_json, is_column

SPEC = Spec("logmel", "logmel", (400, 64), "float16", {"hop_samples": 400, "floor": 1e-10})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_canonical_json_means_the_same_and_is_stable(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_order_of_constants_does_not_matter_but_values_do() -> None:
    turned = Spec("logmel", "logmel", (400, 64), "float16", {"floor": 1e-10, "hop_samples": 400})
    other = Spec("logmel", "logmel", (400, 64), "float16", {"floor": 1e-9, "hop_samples": 400})
    assert SPEC.column == turned.column != other.column
    assert is_column(SPEC.column)
    # A stored column must be found again by every later release: this digest is part of the format.
    assert (
        SPEC.column
        == "logmel-"
        + __import__("hashlib")
        .sha256(
            b'{"array":"logmel","constants":{"floor":1e-10,"hop_samples":400},"dtype":"float16","feature":"logmel","shape":[400,64]}'
        )
        .hexdigest()[:8]
    )


def test_round_trip_and_refusal() -> None:
    assert Spec.from_json(SPEC.to_json()).to_json() == SPEC.to_json()
    for bad in ("", "[]", '{"feature":"x"}'):
        with pytest.raises(ValueError, match="spec.json"):
            Spec.from_json(bad)


def test_infinity_has_no_canonical_form() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(float("inf"))
