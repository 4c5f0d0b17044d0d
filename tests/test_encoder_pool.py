"""The pool of encoder actors: where they have a place, whose troubles are whose. Real actors run in tests/e2e."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.exceptions import ObjectStoreFullError, RayActorError, RayTaskError

from pipeline import encoder_pool
from pipeline.column_shard import EncoderUnavailable
from pipeline.columns import EncoderOptions, build_columns
from pipeline.encoder_pool import EncoderPool
from pipeline.weights import EncoderWeights


class Started:
    """In place of the actor class: notes what it was started with."""

    def __init__(self) -> None:
        self.options_given: list[dict[str, Any]] = []

    def options(self, **given: Any) -> Started:
        self.options_given.append(given)
        return self

    def remote(self, *_: Any) -> Started:
        return self


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    actor = Started()
    monkeypatch.setattr(encoder_pool, "EncoderActor", actor)
    return actor


def nodes(monkeypatch: pytest.MonkeyPatch, *gpus: int) -> None:
    alive = [{"Alive": True, "Resources": {"CPU": 4.0, **({"GPU": float(n)} if n else {})}} for n in gpus]
    monkeypatch.setattr(encoder_pool.ray, "nodes", lambda: [*alive, {"Alive": False, "Resources": {"GPU": 8.0}}])


COLUMN = build_columns(["r2plus1d_18"], lambda _: EncoderOptions(EncoderWeights("random:0", seed=0)))[0]


@pytest.mark.parametrize(
    ("gpus", "actors", "share", "pools", "expected", "each"),
    [
        ((0,), None, 1.0, 1, 1, 0.0),  # no GPU: one actor without Ray CPUs
        ((0, 0), 3, 1.0, 1, 3, 0.0),
        ((2, 1), None, 1.0, 1, 3, 1.0),
        ((2,), None, 0.5, 1, 4, 0.5),
        ((2,), None, 0.5, 2, 2, 0.5),
        ((3,), None, 2.0, 1, 1, 2.0),
        ((1,), None, 0.4, 1, 2, 0.4),
    ],
)
def test_actors_fill_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
    started: Started,
    gpus: tuple[int, ...],
    actors: int | None,
    share: float,
    pools: int,
    expected: int,
    each: float,
) -> None:
    nodes(monkeypatch, *gpus)
    pool = EncoderPool.start(COLUMN, actors, share, pools)
    assert len(pool.actors) == expected
    assert {given["num_gpus"] for given in started.options_given} == {each}
    assert {given["num_cpus"] for given in started.options_given} == {0}


def test_actors_ask_for_something_so_that_ray_spreads_them(monkeypatch: pytest.MonkeyPatch, started: Started) -> None:
    nodes(monkeypatch, 0, 0)
    EncoderPool.start(COLUMN, 3, 1.0)
    assert all((given["scheduling_strategy"], given["memory"]) == ("SPREAD", 1) for given in started.options_given)


@pytest.mark.parametrize(("gpus", "actors", "share"), [((1,), 2, 1.0), ((1, 1), None, 2.0)])
def test_actors_without_a_place_are_refused(
    monkeypatch: pytest.MonkeyPatch, started: Started, gpus: tuple[int, ...], actors: int | None, share: float
) -> None:
    nodes(monkeypatch, *gpus)
    with pytest.raises(ValueError, match="--encoder-gpus"):
        EncoderPool.start(COLUMN, actors, share)


class Full:
    """An actor whose node has no room for another clip's frames."""

    encode: Any

    def __init__(self) -> None:
        self.encode = self

    def remote(self, frames: np.ndarray) -> None:
        raise ObjectStoreFullError("full")


def test_a_full_object_store_is_the_clusters_trouble_not_the_clips() -> None:
    with pytest.raises(EncoderUnavailable, match="full"):
        EncoderPool([Full()]).submit(np.zeros((8, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RayActorError(), EncoderUnavailable),
        (RayTaskError("encode", "trace", EncoderUnavailable("out of memory")), EncoderUnavailable),
        (RayTaskError("encode", "trace", TypeError("a bug")), RayTaskError),
    ],
)
def test_a_lost_actor_passes_and_a_bug_does_not(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception]
) -> None:
    def get(_: Any) -> None:
        raise raised

    monkeypatch.setattr(encoder_pool.ray, "get", get)
    with pytest.raises(expected):
        EncoderPool([Full()]).result(None)
