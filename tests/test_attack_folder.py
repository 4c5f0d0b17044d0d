"""An attack's state there and back, and files that are none."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from attacks.attack_folder import STATE, AttackFolder, AttackState
from attacks.masks import Mask
from attacks.perturbation import SHAPE, Perturbation, Spec
from stores.position import Position

SPEC = Spec("projected", "2", "frame", "rank", 1, Mask((0, 20)), math.inf)


def state() -> AttackState:
    looked = Perturbation(SPEC, np.random.default_rng(0).standard_normal(SHAPE), units=5, still=2, inherited="x")
    looked.look(0.25, 3)
    fresh = Perturbation(Spec("projected", "1", "clip", "bce", 1, Mask(), 0.1))
    history = [{"step": 0, "objectives": {}, "norms": {}}]
    return AttackState(3, Position("digest", "uniform", 1, 0, 12), [looked, fresh], history)


def test_there_and_back() -> None:
    made = state()
    data = made.to_bytes()
    found = AttackState.from_bytes(data, "here")
    assert (found.step, found.position, found.history) == (3, made.position, made.history)
    for one, other in zip(found.perturbations, made.perturbations, strict=True):
        np.testing.assert_array_equal(one.delta, other.delta)
        assert (one.best is None) == (other.best is None)
        if other.best is not None:
            np.testing.assert_array_equal(one.best, other.best)
        for name in ("spec", "best_value", "best_step", "units", "still", "inherited"):
            assert getattr(one, name) == getattr(other, name)
    assert found.to_bytes() == data
    assert AttackState.from_bytes(AttackState(0, None, made.perturbations).to_bytes(), "x").position is None


def test_a_folder_without_a_state(tmp_path: Path) -> None:
    assert AttackFolder(str(tmp_path)).read_state() is None


def other_kind() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, meta=np.frombuffer(json.dumps({"kind": "x", "format": 1}).encode(), np.uint8), deltas=0, best=0)
    return sink.getvalue()


def pickled() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, meta=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return sink.getvalue()


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04", state().to_bytes()[:-400], other_kind(), pickled()])
def test_what_is_no_state_is_named(tmp_path: Path, data: bytes) -> None:
    folder = AttackFolder(str(tmp_path))
    folder.storage.publish(STATE, data)
    with pytest.raises(ValueError, match=r"state\.npz is no readable state"):
        folder.read_state()
