"""What the evaluation's flags make, and words for what cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from attacks.evaluate_options import EvaluateOptions, absolute_paths
from pipeline.options import JOB_VARIABLE

NEEDED = ["--store", "s", "--checkpoint", "a/best.pt", "--checkpoint", "b/best.pt", "--split", "eval", "--out", "o"]


def parsed(*more: str) -> EvaluateOptions:
    return tyro.cli(EvaluateOptions, args=[*NEEDED, *more])


def test_lists_and_defaults() -> None:
    options = parsed("--attack", "x", "--attack", "y", "--split", "select")
    assert options.checkpoint == ("a/best.pt", "b/best.pt")
    assert (options.attack, options.split) == (("x", "y"), ("eval", "select"))
    assert options.noise_draws == 20 and options.permutations == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_draws": -1}, "--noise-draws of 0 or more"),
        ({"permutations": 0}, "--permutations of at least 1"),
        ({"split": ()}, "--split of one or more"),
        ({"checkpoint": ("a", "a")}, "each once"),
        ({"group_size": 0}, "--group-size"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(parsed(), **changes)


def test_what_decides_the_result() -> None:
    options = parsed()
    assert replace(options, workers=3, out="elsewhere").decisive() == options.decisive()
    assert replace(options, noise_draws=3).decisive() != options.decisive()


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = absolute_paths(parsed("--attack", "x", "--floor", "v/best.pt"), {})
    assert made.checkpoint == (f"{tmp_path}/a/best.pt", f"{tmp_path}/b/best.pt")
    assert (made.attack, made.floor) == ((f"{tmp_path}/x",), f"{tmp_path}/v/best.pt")
    with pytest.raises(ValueError, match="--store s is relative"):
        absolute_paths(parsed(), {JOB_VARIABLE: "1"})
