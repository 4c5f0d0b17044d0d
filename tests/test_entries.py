"""What entries refuse, in one line and before Ray starts or a folder is made; what they do is in tests/e2e."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray
import torch
from entries import call
from training_runs import make_training_store, one_thread, small_options

from attacks import evaluate, study, universal_pgd
from attacks.study_config import Study
from models.ranks import Ranks
from pipeline import train as train_entry
from pipeline.training import train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a CSN and a video model of two steps."""
    root = tmp_path_factory.mktemp("entries")
    store = make_training_store(root / "store")
    for model in ("csn", "video"):
        with one_thread():
            train(small_options(store, root / model, model=model, steps=2), Ranks(), torch.device("cpu"))
    return root


TRAIN = {"model": "csn", "train-split": "train", "valid-split": "valid"}
ATTACK = {"checkpoint": "csn/best.pt", "fit-split": "train", "select-split": "valid", "alpha": "0.2"}
EVALUATE = {"checkpoint": "csn/best.pt", "split": "valid"}
REFUSED = [
    (train_entry, TRAIN, {"store": "none"}, "store.json"),
    (train_entry, TRAIN, {"train-split": "nosuch"}, "has no split nosuch; it has: train, valid"),
    (train_entry, TRAIN, {"columns": "r2plus1d_18"}, "logmel"),
    (train_entry, TRAIN, {"steps": "0"}, "expected --steps of at least 1"),
    (universal_pgd, ATTACK, {"fit-split": "test"}, "has no split test"),
    (universal_pgd, ATTACK, {"checkpoint": "none.pt"}, "no such file"),
    (universal_pgd, ATTACK, {"checkpoint": "store/store.json"}, "no readable checkpoint"),
    (universal_pgd, ATTACK, {"checkpoint": "video/best.pt"}, "hears nothing"),
    (universal_pgd, ATTACK, {"freq": "9:3"}, "freq band"),
    (evaluate, EVALUATE, {"attack": "csn"}, "finished attack"),
    (evaluate, EVALUATE, {"noise-draws": "-1"}, "--noise-draws"),
    (evaluate, EVALUATE, {"checkpoint": "none.pt"}, "no such file"),
    (evaluate, EVALUATE, {"split": "test"}, "has no split test"),
    (study, {}, {"preset": "icassp2021"}, "has no split eval"),
    (study, {}, {}, "--preset or by --config"),
    (study, {}, {"config": "none"}, "expected a study as JSON"),
]
PLACES = ("store", "checkpoint", "attack", "config")


def words_of(place: Path, flags: dict[str, str]) -> list[str]:
    return [
        word for name, value in flags.items() for word in (f"--{name}", str(place / value) if name in PLACES else value)
    ]


@pytest.mark.parametrize(
    ("entry", "flags", "changes", "said"),
    REFUSED,
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else None,
)
def test_what_cannot_be_is_refused_before_anything_starts(
    place: Path, tmp_path: Path, entry: object, flags: dict[str, str], changes: dict[str, str], said: str
) -> None:
    running = ray.is_initialized()
    words = words_of(place, {"store": "store", **flags, **changes})
    found = call(entry.main, *words, "--out", str(tmp_path / "out"))  # type: ignore[attr-defined]
    assert found.code == 2, found.error
    assert said in found.error and "Traceback" not in found.error
    assert ray.is_initialized() == running and not (tmp_path / "out").exists()


def test_a_study_is_shown_as_json(place: Path, tmp_path: Path) -> None:
    words = ["--store", str(place / "store"), "--out", str(tmp_path / "out")]
    shown = call(study.main, *words, "--preset", "icassp2021", "--print-config")
    assert shown.code == 0 and Study.from_dict(json.loads(shown.output)).name == "icassp2021"
    assert not (tmp_path / "out").exists()
