"""What a checkpoint is scored under: which conditions for which model, and noise of a perturbation's own norm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import small_model

from attacks.attack_folder import AttackFolder, AttackState
from attacks.conditions import Delta, conditions_for, read_deltas
from attacks.masks import Mask
from attacks.norms import norms_of
from attacks.perturbation import SHAPE, Perturbation, Spec

SPEC = Spec("projected", "2", "clip", "bce", 1, Mask((0, 20)), 0.5)


def delta(**changes: Any) -> Delta:
    spec = Spec(**{**vars(SPEC), **changes})
    values = np.where(spec.mask.array(), np.random.default_rng(0).standard_normal(SHAPE), 0).astype(np.float32)
    return Delta(f"0-{spec.name}", values, spec, {})


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("csn", ["clean", "attacked", "noise", "noise"]),
        ("mid1", ["clean", "shuffled", "silent", "attacked", "noise", "noise"]),
        ("late", ["clean", "shuffled", "silent", "branch", "attacked", "noise", "noise"]),
        ("video", ["clean"]),
    ],
)
def test_conditions_by_model(name: str, kinds: list[str]) -> None:
    found = list(conditions_for(small_model(name), [delta()], 2))
    assert [item.kind for item in found] == kinds
    assert len({item.file for item in found if item.stored}) == sum(item.stored for item in found)
    assert [item.stored for item in found if item.kind == "noise"] == ([True, False] if "noise" in kinds else [])


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_noise_has_the_perturbations_own_norm_and_mask(norm: Any, scope: Any) -> None:
    one = delta(norm=norm, scope=scope)
    noise = one.noise(0)
    assert noise.dtype == np.float32 and not noise[:, 20:].any()
    np.testing.assert_allclose(norms_of(noise, norm, scope), norms_of(one.values, norm, scope), rtol=1e-6)
    np.testing.assert_array_equal(noise, one.noise(0))
    assert (noise != one.noise(1)).any()


def finished(folder: Path, options: dict[str, Any] | None = None) -> AttackFolder:
    item = Perturbation(SPEC, np.where(SPEC.mask.array(), 0.001, 0.0))
    item.look(0.5, 3)
    look = {"objectives": {SPEC.name: 0.5}, "norms": {SPEC.name: {"l2": 1.0}}}
    history = [{"step": 0, "clean": {"bce": 0.1}, **look}]
    made = AttackFolder(str(folder))
    made.write_results(
        AttackState(3, None, [item], history), {"checkpoint": "c" * 64, "options": options or {}}, ["a warning"]
    )
    return made


def test_a_finished_attack_is_read(tmp_path: Path) -> None:
    finished(tmp_path)
    (found,) = read_deltas(str(tmp_path))
    assert found.id.startswith("cccccccc-") and found.id.endswith(f"-{SPEC.name}") and found.spec == SPEC
    finished(tmp_path / "other", {"passes": 3})
    assert read_deltas(str(tmp_path / "other"))[0].id != found.id  # the same perturbation, made otherwise
    assert found.values.dtype == np.float32 and found.record["warnings"] == ["a warning"]
    assert len(found.record["sha256"]) == 64
    assert found.record["history"] == [{"step": 0, "objective": 0.5, "l2": 1.0}]


def test_what_is_no_finished_attack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finished attack"):
        read_deltas(str(tmp_path / "none"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/summary.json").write_text(json.dumps({"steps": 3}))
    with pytest.raises(ValueError, match="finished attack"):
        read_deltas(str(tmp_path / "run"))
    folder = finished(tmp_path / "odd")
    np.save(tmp_path / "odd/deltas" / f"{SPEC.name}.npy", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ValueError, match="finite numbers"):
        read_deltas(folder.storage.uri)


def test_another_perturbation_in_its_place_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    path = tmp_path / "deltas" / f"{SPEC.name}.npy"
    good = np.load(path)
    for write, words in (
        (lambda: np.save(path, 3 * good), "another δ"),
        (lambda: path.write_text("hello"), "damaged"),
        (lambda: path.unlink(), "missing"),
    ):
        write()
        with pytest.raises(ValueError, match=words):
            read_deltas(folder.storage.uri)
    np.save(path, good)
    assert len(read_deltas(folder.storage.uri)) == 1
