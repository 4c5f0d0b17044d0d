"""A whole evaluation: every checkpoint under every perturbation and control, and what is left for later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import make_training_store, small_options

from attacks.attack import attack
from attacks.attack_options import AttackOptions
from attacks.evaluate_options import EvaluateOptions
from attacks.evaluation import evaluate_checkpoints
from models.metrics import evaluate
from models.ranks import Ranks
from pipeline.training import train
from stores.job_folder import JobFolder
from stores.scores import read_scores
from stores.storage import Storage

CPU = torch.device("cpu")
MODELS = ("csn", "late", "video")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, three checkpoints, and an attack on two of them."""
    root = tmp_path_factory.mktemp("evaluation")
    store = make_training_store(root / "store")
    for model in MODELS:
        train(small_options(store, root / model, model=model, steps=2), Ranks(), CPU)
    for model in MODELS[:2]:
        options = AttackOptions(
            store=store,
            checkpoint=str(root / model / "best.pt"),
            fit_split=("train",),
            select_split=("valid",),
            alpha=2.0,
            epsilon=(8.0,),
            out=str(root / f"attack-{model}"),
            batch_size=12,
            group_size=6,
            passes=0.5,
            reader_threads=0,
        )
        attack(options, Ranks(), CPU)
    return root


def options_for(place: Path, out: Path, **changes: Any) -> EvaluateOptions:
    made = EvaluateOptions(
        store=str(place / "store"),
        checkpoint=tuple(str(place / model / "best.pt") for model in ("csn", "late")),
        split=("valid",),
        out=str(out),
        attack=tuple(str(place / f"attack-{model}") for model in ("csn", "late")),
        floor=str(place / "video/best.pt"),
        noise_draws=3,
        permutations=50,
        group_size=8,
        reader_threads=0,
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def summary(place: Path) -> dict[str, Any]:
    evaluate_checkpoints(options_for(place, place / "found"), Ranks(), CPU)
    found = JobFolder(str(place / "found")).summary()
    assert found is not None
    return found


def test_noise_is_told_of_once_for_all_its_draws(place: Path, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    evaluate_checkpoints(
        options_for(place, tmp_path, checkpoint=(str(place / "csn/best.pt"),)), Ranks(), CPU, told.append
    )
    conditions = [line["condition"] for line in told]
    assert len(conditions) == len(set(conditions)) == 1 + 2 + 2  # clean, two perturbations, and their noises
    assert sum("3 draws" in words for words in conditions) == 2


def test_every_checkpoint_under_every_perturbation(summary: dict[str, Any]) -> None:
    assert [part["model"]["model"] for part in summary["checkpoints"]] == ["csn", "late"]
    own = [part["digest"][:8] for part in summary["checkpoints"]]
    for part in summary["checkpoints"]:
        attacked = [row["delta"] for row in part["rows"] if row["kind"] == "attacked"]
        assert [name[:8] for name in attacked] == own
        assert sorted(part["noise"]) == sorted(attacked) == sorted(summary["deltas"])
        for noise in part["noise"].values():
            values = [draw["mAP"] for draw in noise["draws"]]
            assert len(set(values)) > 1 and noise["mAP"]["mean"] == pytest.approx(np.mean(values))
        assert part["chance"]["draws"] == 50
    kinds = [[row["kind"] for row in part["rows"]] for part in summary["checkpoints"]]
    assert kinds[0] == ["clean", "attacked", "attacked"]
    assert kinds[1] == ["clean", "shuffled", "silent", "branch", "attacked", "attacked"]
    assert summary["floor"]["mAP"] > 0


def test_every_number_can_be_made_again_from_the_stored_scores(place: Path, summary: dict[str, Any]) -> None:
    storage = Storage(str(place / "found"))
    for part in summary["checkpoints"]:
        clean = read_scores(storage, f"scores/{part['digest'][:16]}/clean.parquet")
        for row in part["rows"]:
            name = "_".join(filter(None, (row["kind"], row["delta"])))
            clips = read_scores(storage, f"scores/{part['digest'][:16]}/{name}.parquet")
            found = evaluate(clips.scores, clips.targets)
            assert row["mAP"] == found.mean_ap and row["AUC"] == found.mean_auc
            assert row["per_class"]["AP"] == found.as_dict()["per_class"]["AP"]
            assert clips.origin.checkpoint == part["digest"] and clips.origin.noted["delta"] == (row["delta"] or "")
            if row["kind"] == "attacked":
                change = clips.scores.astype(float) - clean.scores
                share = np.square(change.mean(0)).sum() * len(change) / np.square(change).sum()
                assert row["constant_share"] == pytest.approx(share, rel=1e-9)
        for name, noise in part["noise"].items():
            first = read_scores(storage, f"scores/{part['digest'][:16]}/noise_{name}.parquet")
            assert noise["draws"][0]["mAP"] == evaluate(first.scores, first.targets).mean_ap


def test_what_is_done_is_not_done_again(place: Path, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("scored again")

    (place / "found/summary.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("attacks.evaluation.score_split", refuse)
        evaluate_checkpoints(options_for(place, place / "found", floor=None), Ranks(), CPU)
    again = json.loads((place / "found/summary.json").read_text())
    assert again["checkpoints"] == summary["checkpoints"] and again["floor"] is None


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path) -> None:
    twice = options_for(place, tmp_path, attack=(str(place / "attack-csn"),) * 2)
    with pytest.raises(ValueError, match="twice"):
        evaluate_checkpoints(twice, Ranks(), CPU)
    hearing = options_for(place, tmp_path, floor=str(place / "csn/best.pt"), checkpoint=(str(place / "video/best.pt"),))
    with pytest.raises(ValueError, match="video-only"):
        evaluate_checkpoints(hearing, Ranks(), CPU)
