"""Choosing facts: by seed, by setting, by floor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_samples import whole

from attacks.facts import VARIANTS, Entry, Fact, Source, Study, drops, floor_of, kept_shares, values_of
from attacks.masks import Mask
from attacks.perturbation import Spec


def fact(run: str = "csn-s0", kind: str = "clean", value: float | None = 0.5, **more: object) -> Fact:
    entry, _, seed = run.rpartition("-s")
    return Fact(run, entry, entry, int(seed), "report", "eval", kind, {"mAP": value}, 10, "x", **more)  # type: ignore[arg-type]


def study(*facts: Fact, models: tuple[Entry, ...] = (Entry("csn", "csn"),)) -> Study:
    return replace(whole().study, facts=facts, models=models)


def test_a_model_is_the_one_called_so_or_the_first_of_its_kind() -> None:
    several = study(
        models=(Entry("wide", "csn"), Entry("csn", "csn"), Entry("crnn-a", "crnn"), Entry("crnn-b", "crnn"))
    )
    assert several.entry_of("csn") == Entry("csn", "csn")
    assert several.entry_of("crnn") == Entry("crnn-a", "crnn")
    assert several.entry_of("late") is None


def test_of_several_starts_the_best_on_the_select_split_counts_and_only_attacks_on_the_run_itself() -> None:
    spec = Spec("projected", "2", "clip", "bce", 0, Mask(), 0.3)
    found = study(
        fact(kind="attacked", value=0.2, spec=spec, made_on="csn-s0", select=1.0),
        fact(kind="attacked", value=0.3, spec=replace(spec, seed=1), made_on="csn-s0", select=2.0),
        fact(kind="attacked", value=0.1, spec=replace(spec, seed=2), made_on="csn-s0", select=0.5),
        fact(kind="attacked", value=0.0, spec=spec, made_on="csn-s1", select=9.0),
        fact(kind="attacked", value=0.0, spec=replace(spec, epsilon=0.1), made_on="csn-s0", select=9.0),
    ).attacked("csn", VARIANTS[0], "2", 0.3)
    assert values_of(found) == {0: 0.3}


def test_the_best_run_is_chosen_by_validation() -> None:
    best = whole().study.best_run("csn")
    runs = [run for run in whole().study.runs if run.entry == "csn"]
    assert best is not None and len(runs) == 2
    assert best.valid["mAP"] == max(run.valid["mAP"] for run in runs)
    assert whole().study.best_run("resnet50") is None


def test_drops_and_shares_are_paired_and_leave_out_what_is_undefined() -> None:
    clean = {0: fact(value=0.8), 1: fact(value=0.6), 2: fact(value=None), 3: fact(value=0.3)}
    attacked = {0: fact(value=0.5), 1: fact(value=0.1), 2: fact(value=0.1), 3: fact(value=0.2)}
    floor = {0: fact(value=0.2), 1: fact(value=0.1), 3: fact(value=0.4)}
    assert drops(clean, attacked) == {0: pytest.approx(0.3), 1: pytest.approx(0.5), 3: pytest.approx(0.1)}
    assert kept_shares(clean, attacked, floor) == {0: pytest.approx(0.5), 1: pytest.approx(0.0)}


def test_a_floor_is_the_branch_or_a_given_model_or_the_studys_own() -> None:
    entries = (Entry("late", "late"), Entry("video", "video"))
    branch, given = fact("late-s0", "branch", 0.3), fact("late-s0", "floor", 0.2)
    alone, heard = fact("video-s0", "clean", 0.1), fact("late-s0", "clean", 0.9)
    for facts, value, what in (
        ((heard, alone, given, branch), 0.3, "its own video branch"),
        ((heard, alone, given), 0.2, "a video-only model"),
        ((heard, alone), 0.1, "the video-only model of the same seed"),
    ):
        found, words = floor_of(study(*facts, models=entries), entries[0])
        assert (values_of(found), words) == ({0: value}, what)
    assert floor_of(study(heard, models=entries[:1]), entries[0]) == ({}, "")


def test_a_source_has_changed_when_its_command_left_another_file() -> None:
    assert not Source("runs/a-s0", "d1").changed
    assert not Source("runs/a-s0", "d1", {"digest": "d1"}).changed
    assert Source("runs/a-s0", "d1", {"digest": "d2"}).changed
