"""What an attack says of itself, in lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOT_BETTER = "no step did better on the select split than no perturbation at all"


def look_words(line: Mapping[str, Any]) -> str:
    """A look at the select split: `step`, and `objectives` by name."""
    values = list(line["objectives"].items())
    shown = ", ".join(f"{name} {value:.5f}" for name, value in values[:4])
    more = f" and {len(values) - 4} more" if len(values) > 4 else ""
    return f"step {line['step']}: {shown}{more}"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What an ended attack came to: a line for each perturbation, and its warnings."""
    items = summary["perturbations"]
    width = max(len(item["name"]) for item in items)
    lines = [f"{'':{width}}  objective     clean        l1        l2      linf  best step"]
    for item in items:
        norms = item["norms"]
        numbers = f"{item['objective_on_select']:11.5f}{item['clean_objective_on_select']:10.5f}"
        sizes = f"{norms['l1']:10.4g}{norms['l2']:10.4g}{norms['linf']:10.4g}"
        still = f"  no step in {item['still_share']:.1%}" if item["still_share"] else ""
        lines.append(f"{item['name']:{width}}{numbers}{sizes}{item['best_step']:11d}{still}")
    return lines + [f"warning: {text}" for text in summary["warnings"]]


def condition_words(line: Mapping[str, Any]) -> str:
    """A checkpoint scored under a condition: `checkpoint`, `condition` and `metrics`."""
    return f"{line['checkpoint']} {line['condition']}: {_numbers(line['metrics'])}"


def evaluation_lines(summary: Mapping[str, Any]) -> list[str]:
    """What an ended evaluation found: a block for each checkpoint, with each perturbation's noise beside it."""
    lines = []
    for part in summary["checkpoints"]:
        chance = part["chance"]["mean_ap"]
        lines.append(
            f"{part['path']} ({part['model']['model']}), {part['clips']} clips of {'+'.join(summary['split'])}"
        )
        for row in part["rows"]:
            words = f"  {row['kind']:9} {_numbers(row)}"
            if row["delta"]:
                share, noise = row["constant_share"], part["noise"].get(row["delta"], {}).get("mAP")
                words += f"  {row['delta']}"
                words += f"; noise {noise['mean']:.4f} [{noise['low']:.4f}, {noise['high']:.4f}]" if noise else ""
                words += f"; {share:.0%} of the change is a constant" if share is not None else ""
            lines.append(words)
        lines.append(f"  chance    mAP {chance['mean']:.4f} [{chance['low']:.4f}, {chance['high']:.4f}]")
    if summary["floor"]:
        lines.append(f"video only  {_numbers(summary['floor'])}")
    return lines


def _numbers(found: Mapping[str, Any]) -> str:
    names = {"mAP": "mAP", "AUC": "AUC", "d_prime": "d′"}
    return " ".join(f"{word} {'  -   ' if found[key] is None else f'{found[key]:.4f}'}" for key, word in names.items())
