"""Verdicts: each word is said exactly when the numbers, with their intervals, say so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_samples import minimal, whole

from attacks.conclusions import conclusions, listing, rank_of, together
from attacks.facts import Entry, Fact, Study
from attacks.masks import Mask
from attacks.perturbation import Spec

ALL = ("early", "mid1", "mid2", "late")
WAYS = (("projected", "clip"), ("projected", "frame"), ("accumulated", "frame"))


def study(attacked: dict[str, tuple[float, ...]], floor: dict[str, float] | None = None, clean: float = 0.5) -> Study:
    """Fusion models with such attacked mAP by seed, in all three ways, over such floors."""
    facts = []
    for model, values in attacked.items():
        for seed, value in enumerate(values):

            def made(kind: str, score: float, **more: object) -> Fact:
                run = f"{model}-s{seed}"  # noqa: B023
                return Fact(run, model, model, seed, "report", "eval", kind, {"mAP": score}, 10, "x", **more)  # type: ignore[arg-type]  # noqa: B023

            facts.append(made("clean", clean))
            if floor is not None:
                facts.append(made("floor", floor[model]))
            for rule, scope in WAYS:
                spec = Spec(rule, "2", scope, "bce", 0, Mask(), 0.3)  # type: ignore[arg-type]
                facts.append(made("attacked", value, spec=spec, made_on=f"{model}-s{seed}"))
    seeds = tuple(range(max(map(len, attacked.values()))))
    return replace(whole().study, facts=tuple(facts), models=tuple(Entry(m, m) for m in attacked), seeds=seeds)


LOW, HIGH = (0.20, 0.21, 0.19), (0.30, 0.31, 0.29)
ABOVE = {"early": LOW, "mid1": LOW, "mid2": LOW, "late": HIGH}
NOT_TOLD = "cannot be told here"
EVEN = dict.fromkeys(ALL, 0.1)


@pytest.mark.parametrize(
    ("attacked", "floor", "word", "why"),
    [
        (ABOVE, EVEN, "supported", "keeps most, also of what"),
        # Its attacked score is the highest, but only because the picture alone gives so much.
        (ABOVE, {**EVEN, "late": 0.29}, "not supported", "picture alone"),
        ({"early": LOW, "mid1": LOW, "mid2": HIGH, "late": LOW}, EVEN, "not supported", "does not keep most"),
        (
            {"early": LOW, "mid1": LOW, "mid2": (0.1, 0.4, 0.2), "late": HIGH},
            EVEN,
            NOT_TOLD,
            "not told from 0",
        ),
        ({"early": LOW, "mid2": LOW, "late": HIGH}, EVEN, NOT_TOLD, "Not in this store: mid fusion 1"),
        ({"early": LOW, "mid2": HIGH, "late": LOW}, EVEN, "not supported", ""),  # one that is better is enough
        ({model: values[:1] for model, values in ABOVE.items()}, EVEN, NOT_TOLD, "one seed"),
        (ABOVE, None, NOT_TOLD, "No share above a floor"),
        ({"early": LOW, "mid1": LOW, "mid2": LOW}, EVEN, NOT_TOLD, "What it needs is missing"),
    ],
)
def test_the_first(attacked: dict, floor: dict | None, word: str, why: str) -> None:
    verdict = conclusions(study(attacked, floor))[0]
    assert verdict.word == word
    assert why in verdict.reason


def test_ways_that_contradict_each_other_decide_nothing() -> None:
    found = study(ABOVE, EVEN)
    turned = tuple(
        replace(fact, metrics={"mAP": 0.05})
        if fact.model == "late" and fact.spec and fact.spec.scope == "clip"
        else fact
        for fact in found.facts
    )
    verdict = conclusions(replace(found, facts=turned))[0]
    assert verdict.word == "cannot be told here" and "say different things" in verdict.reason


def test_findings_give_the_interval_of_every_difference() -> None:
    verdict = conclusions(study(ABOVE, EVEN))[0]
    assert len(verdict.findings) == 6
    assert "late fusion 0.300 ± 0.025" in verdict.findings[0]
    assert "+0.100 ± 0.000 to early fusion" in verdict.findings[0]
    assert "late fusion 0.50 ± 0.06" in verdict.findings[1]  # (0.3 − 0.1) / (0.5 − 0.1)


def test_without_the_papers_answer_nothing_is_supported_but_what_is_seen_is_told() -> None:
    for verdict in conclusions(whole().study)[1:]:
        assert verdict.word == "cannot be told here" and "not on record" in verdict.reason
    second, third = conclusions(whole().study)[1:]
    assert len(second.findings) == 6 and "bins 40–64" in second.findings[0]
    assert any("CSN minus CRNN" in text for text in third.findings)
    assert "Not in this store: ResNet-50." in third.findings


def test_modules_that_differ_are_told_apart() -> None:
    found = study({"csn": LOW, "crnn": HIGH, "resnet50": (0.4, 0.41, 0.39)})
    third = conclusions(found)[2]
    assert "projected, ε over the clip: CSN loses most." in third.findings[0]
    assert "CSN 0.300 ± 0.025, CRNN 0.200 ± 0.025, ResNet-50 0.100 ± 0.025" in third.findings[0]


def test_an_empty_study_has_three_verdicts() -> None:
    found = conclusions(minimal().study)
    assert [verdict.number for verdict in found] == [1, 2, 3]
    assert {verdict.word for verdict in found} == {"cannot be told here"}
    assert all(verdict.findings for verdict in found)


def test_parts() -> None:
    assert together("supported", "supported") == "supported"
    assert together("supported", "not supported") == together("not supported", "supported") == "not supported"
    assert together("supported", "cannot be told here") == "cannot be told here"
    assert rank_of("late", {"late": {0: 1.0}}) == ("cannot be told here", "There is nothing to compare.")
    assert listing({"a": {0: 0.1}, "b": {0: 0.2, 1: 0.2}}) == "a 0.100 (one seed), b 0.200 ± 0.000"
