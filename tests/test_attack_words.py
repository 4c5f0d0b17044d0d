"""Lines about attacks and evaluations."""

from __future__ import annotations

from attacks.attack_words import condition_words, evaluation_lines, look_words, summary_lines

NUMBERS = {"mAP": 0.25, "AUC": 0.75, "d_prime": None}


def test_a_look_names_four_and_counts_the_rest() -> None:
    line = {"step": 7, "objectives": {f"p{i}": i / 10 for i in range(6)}}
    assert look_words(line) == "step 7: p0 0.00000, p1 0.10000, p2 0.20000, p3 0.30000 and 2 more"


def test_a_summary_has_a_line_for_each_and_its_warnings() -> None:
    item = {
        "name": "one",
        "norms": {"l1": 12.0, "l2": 0.3, "linf": 0.01},
        "objective_on_select": 0.9,
        "clean_objective_on_select": 0.7,
        "best_step": 12,
        "still_share": 0.0,
    }
    lines = summary_lines({"perturbations": [item, {**item, "still_share": 0.25}], "warnings": ["the same split"]})
    assert len(lines) == 4
    assert "0.90000   0.70000" in lines[1] and "no step" not in lines[1]
    assert lines[2].endswith("no step in 25.0%")
    assert lines[3] == "warning: the same split"


def test_an_evaluation_puts_noise_beside_each_perturbation() -> None:
    rows = [
        {"kind": "clean", "delta": None, **NUMBERS},
        {"kind": "attacked", "delta": "d", "constant_share": 0.96, **NUMBERS},
        {"kind": "attacked", "delta": "e", "constant_share": None, **NUMBERS},
    ]
    band = {"mean": 0.2, "low": 0.1, "high": 0.3}
    part = {"path": "a.pt", "model": {"model": "csn"}, "clips": 9, "rows": rows, "noise": {"d": {"mAP": band}}}
    part["chance"] = {"mean_ap": band}
    lines = evaluation_lines({"split": ["eval"], "checkpoints": [part], "floor": NUMBERS})
    assert lines[0] == "a.pt (csn), 9 clips of eval"
    assert "noise 0.2000 [0.1000, 0.3000]; 96% of the change is a constant" in lines[2]
    assert "noise" not in lines[3]
    assert lines[4].startswith("  chance    mAP 0.2000") and lines[5].startswith("video only  mAP 0.2500 AUC 0.7500")
    assert condition_words({"checkpoint": "a", "condition": "clean", "metrics": NUMBERS}).startswith(
        "a clean: mAP 0.25"
    )
