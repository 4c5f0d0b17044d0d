"""Controls beside attacked scores: noise, chance, norms, floors, as the files have them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_samples import rows_of, whole
from scipy import stats

FRAME = "projected-l2-frame-eps0.3-full-bce-s0"


def part(run: str) -> dict:
    return json.loads((whole().root / f"evaluations/{run}/summary.json").read_text())["checkpoints"][0]


def row_of(part: dict, name: str) -> dict:
    return next(row for row in part["rows"] if (row["delta"] or row["kind"]).endswith(name))


@pytest.fixture(scope="module")
def parts() -> list[dict]:
    return [part("late-s0"), part("late-s1")]


@pytest.fixture(scope="module")
def controls() -> dict[str, str]:
    rows = rows_of(whole().table("table-1-controls"))
    return next(r for r in rows if r["Model"] == "late fusion" and r["How δ is kept small"] == "projected, ε per frame")


@pytest.fixture(scope="module")
def floors() -> list[dict[str, str]]:
    return rows_of(whole().table("table-1-floor"))


def interval(values: list[float], digits: int = 3, sign: str = "") -> str:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


def test_the_drop_is_paired_by_seed(controls: dict[str, str], parts: list[dict]) -> None:
    found = [row_of(item, "clean")["mAP"] - row_of(item, FRAME)["mAP"] for item in parts]
    assert controls["mAP, drop"] == interval(found, sign="+")


def test_noise_and_chance_have_their_bands(controls: dict[str, str], parts: list[dict]) -> None:
    noise = [item["noise"][row_of(item, FRAME)["delta"]]["mAP"] for item in parts]
    chance = [item["chance"]["mean_ap"] for item in parts]
    for column, bands in (("mAP, noise of the same norm", noise), ("mAP, chance", chance)):
        mean, low, high = (np.mean([band[name] for band in bands]) for name in ("mean", "low", "high"))
        assert controls[column] == f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    assert controls["same shift for every clip"] == "90%"


def test_norms_are_those_measured(controls: dict[str, str]) -> None:
    norms = []
    for seed in (0, 1):
        path = whole().root / f"attacks/late-s{seed}/main/deltas/{FRAME}.npy"
        norms.append(float(np.linalg.norm(np.load(path).astype(float))))
    low, high = (f"{value:.3g}" for value in (min(norms), max(norms)))
    assert controls["measured norm of δ, l2"] == (low if low == high else f"{low} to {high}") == "6"
    assert controls["measured norm of δ, l2 a frame, most"] == "0.3"


def test_every_fusion_row_has_its_floor_and_what_it_keeps_above(
    floors: list[dict[str, str]], parts: list[dict]
) -> None:
    assert len(floors) == 12  # four fusions in three ways
    (row,) = [r for r in floors if r["Model"] == "late fusion" and r["How δ is kept small"] == "projected, ε per frame"]
    kept = []
    for item in parts:
        clean, branch, attacked = (row_of(item, name)["mAP"] for name in ("clean", "branch", FRAME))
        kept.append((attacked - branch) / (clean - branch))
    assert row["kept above the floor"] == interval(kept, 2)
    assert row["what the floor is"] == "its own video branch"
    assert row["mAP, sounds shuffled"] == interval([row_of(item, "shuffled")["mAP"] for item in parts])


def test_a_floor_that_is_one_model_is_no_spread(floors: list[dict[str, str]]) -> None:
    given = json.loads((whole().root / "evaluations/mid2-s0/summary.json").read_text())["floor"]["mAP"]
    rows = [row for row in floors if row["Model"] == "mid fusion 2"]
    assert {row["mAP, floor: picture only"] for row in rows} == {f"{given:.3f} (one model)"}
    assert {row["what the floor is"] for row in rows} == {"a video-only model"}


def test_what_is_not_there_is_said(floors: list[dict[str, str]]) -> None:
    for row in floors:
        if row["Model"] == "early fusion":
            assert set(list(row.values())[3:]) == {"not in this store"}
