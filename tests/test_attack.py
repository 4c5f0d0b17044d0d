"""Whole attacks on real ranks: the same bits on any number of them, and when they were killed on the way."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import make_training_store, one_thread, small_options, train_on

from attacks.attack import attack, read_checkpoint
from attacks.attack_folder import AttackFolder
from attacks.attack_options import AttackOptions
from attacks.universal_pgd import require_whole
from models.checkpoint import CheckpointError
from models.ranks import Ranks
from pipeline.training import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, and a CSN and a mid 2 trained on it for two steps."""
    root = tmp_path_factory.mktemp("attack")
    store = make_training_store(root / "store")
    for model in ("csn", "mid2"):
        with one_thread():
            train(small_options(store, root / model, model=model, steps=2), Ranks(), CPU)
    return root


def options_for(place: Path, out: Path, **changes: Any) -> AttackOptions:
    model = changes.pop("model", "csn")
    made = AttackOptions(
        store=str(place / "store"),
        checkpoint=str(place / model / "best.pt"),
        fit_split=("train",),
        select_split=("valid",),
        alpha=0.2,
        out=str(out),
        epsilon=(0.3,),
        objective=("bce", "rank"),
        batch_size=9,
        group_size=3,
        passes=0.5,
        evaluate_every=2,
        reader_threads=0,
    )
    return replace(made, **changes)


def attack_here(options: AttackOptions) -> AttackFolder:
    folder = AttackFolder(options.out)
    folder.claim(options.decisive())
    with one_thread():
        attack(options, Ranks(), CPU)
    return folder


def deltas_of(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder, "deltas").glob("*.npy"))}


@pytest.fixture(scope="module")
def quiet(place: Path) -> Path:
    """An attack that nothing happened to."""
    options = options_for(place, place / "quiet")
    attack_here(options)
    return place / "quiet"


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_any_number_of_ranks_makes_the_same_bits(place: Path, quiet: Path, tmp_path: Path, ranks: int) -> None:
    assert train_on(ranks, options_for(place, tmp_path)) == [0] * ranks
    assert deltas_of(tmp_path) == deltas_of(quiet)
    assert (tmp_path / "state.npz").read_bytes() == (quiet / "state.npz").read_bytes()


@pytest.mark.parametrize("kill", ["group:5", "write:state.npz:2"])
def test_a_killed_attack_goes_on_to_the_same_bits(place: Path, quiet: Path, tmp_path: Path, kill: str) -> None:
    options = options_for(place, tmp_path)
    assert train_on(1, options, kill) == [-9]
    assert not (tmp_path / "summary.json").exists()
    attack_here(options)
    assert deltas_of(tmp_path) == deltas_of(quiet)
    assert (tmp_path / "state.npz").read_bytes() == (quiet / "state.npz").read_bytes()


def test_what_is_left(place: Path, quiet: Path) -> None:
    summary = json.loads((quiet / "summary.json").read_text())
    assert summary["steps"] == 3  # half a pass of 48 clips by 9, rounded up
    assert summary["warnings"] == []  # three steps of 0.2 can reach 0.3
    assert summary["checkpoint"] == read_checkpoint(str(place / "csn/best.pt")).digest
    names = [item["name"] for item in summary["perturbations"]]
    assert names == [f"projected-l2-clip-eps0.3-full-{o}-s15213" for o in ("bce", "rank")]
    for item in summary["perturbations"]:
        delta = np.load(quiet / "deltas" / f"{item['name']}.npy")
        assert delta.shape == (400, 64) and delta.dtype == np.float32
        assert np.linalg.norm(delta.astype(float)) <= item["epsilon"] * (1 + 1e-6)
        assert item["norms"]["l2"] == pytest.approx(np.linalg.norm(delta.astype(float)), rel=1e-12)
        assert item["objective_on_select"] >= item["clean_objective_on_select"]
        record = json.loads((quiet / "deltas" / f"{item['name']}.json").read_text())
        assert [line["step"] for line in record["history"]] == [0, 2, 3]
        assert record["history"][0]["objective"] == item["clean_objective_on_select"]
        assert (quiet / "deltas" / f"{item['name']}.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_attack_does_nothing_again(place: Path, quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr("attacks.gradients.Gradients.step", refuse)
    before = deltas_of(quiet)
    attack_here(options_for(place, quiet))
    assert deltas_of(quiet) == before


def test_a_perturbation_that_is_lost_afterwards_is_written_again(place: Path, quiet: Path, tmp_path: Path) -> None:
    shutil.copytree(quiet, tmp_path / "copy")
    folder = AttackFolder(str(tmp_path / "copy"))
    require_whole(folder)
    assert folder.summary() is not None
    lost = next((tmp_path / "copy/deltas").glob("*.npy"))
    lost.unlink()
    require_whole(folder)
    assert folder.summary() is None
    attack_here(options_for(place, tmp_path / "copy"))
    assert deltas_of(tmp_path / "copy") == deltas_of(quiet)

    lost.write_bytes(b"hello")
    (tmp_path / "copy/state.npz").unlink()
    with pytest.raises(ValueError, match="damaged"):
        require_whole(folder)
    (tmp_path / "copy/state.npz").write_bytes((quiet / "state.npz").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"state\.npz is no readable state"):
        require_whole(folder)


def test_steps_that_lead_nowhere_are_a_warning(place: Path, tmp_path: Path) -> None:
    options = options_for(place, tmp_path, objective=("bce",), passes=0.1, epsilon=(0.0,))
    attack_here(options)
    (words,) = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert words.startswith("no step did better on the select split than no perturbation at all: projected-l2-clip-eps")


def test_many_perturbations_read_the_shards_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of them copy out of the tars no more bytes than one."""
    copied: list[int] = []
    from stores.reader import Reader

    gather = Reader._gather

    def counted(self: Reader, drawn: np.ndarray) -> Any:
        flags, arrays = gather(self, drawn)
        copied.append(sum(array.nbytes for array in arrays.values()))
        return flags, arrays

    monkeypatch.setattr(Reader, "_gather", counted)
    sizes = []
    for number, changes in enumerate(({}, {"epsilon": (0.1, 0.3), "freq": ("0:20", "0:64")})):
        copied.clear()
        options = options_for(place, tmp_path / str(number), model="mid2", objective=("bce",), passes=0.25)
        attack_here(replace(options, **({"epsilon": (0.3,)} | changes)))
        sizes.append(sum(copied))
    assert sizes[0] == sizes[1] > 0


def test_equal_splits_are_a_warning(place: Path, tmp_path: Path) -> None:
    options = options_for(place, tmp_path, select_split=("train",), objective=("bce",), epsilon=(0.3,), passes=0.1)
    attack_here(options)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["warnings"] == [
        "fitted and selected on the same split: train",
        "1 steps of α 0.2 cannot reach ε 0.3: give more --passes",
    ]


def test_the_accumulated_rule_reports_its_norms(place: Path, tmp_path: Path) -> None:
    options = options_for(place, tmp_path, rule=("accumulated",), objective=("bce",), epsilon=(0.1,), passes=1.0)
    attack_here(options)
    (item,) = json.loads((tmp_path / "summary.json").read_text())["perturbations"]
    record = json.loads((tmp_path / "deltas" / f"{item['name']}.json").read_text())
    sizes = [line["l2"] for line in record["history"]]
    assert sizes == sorted(sizes) and sizes[-1] > 0.1 == item["epsilon"]


def test_what_is_no_checkpoint_is_named(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read_checkpoint(str(tmp_path / "best.pt"))
    with pytest.raises(ValueError, match="expected the path"):
        read_checkpoint(f"{tmp_path}/")
    (tmp_path / "other.pt").write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        read_checkpoint(str(tmp_path / "other.pt"))
