"""Prints what each model costs, as a table in Markdown: `python -m models`."""

from __future__ import annotations

import tyro

from models.cost import model_cost
from models.registry import MODELS, field_names

VIDEO_DIMS = (512, 2048)


def variants() -> list[tuple[str, dict[str, object]]]:
    """Model and options of each row: both kinds of transformer stack for the CSN, both video transforms for all."""
    rows: list[tuple[str, dict[str, object]]] = []
    for name in MODELS:
        if "video_transform" in field_names(name):
            rows += [(name, {"video_transform": transform}) for transform in ("conv1d", "raw")]
        elif name == "csn":
            rows += [(name, {}), (name, {"shared_blocks": False})]
        else:
            rows.append((name, {}))
    return rows


def table(width: float = 1.0) -> str:
    """The table.

    Args:
        width: Multiplies every number of channels; 1 is the published size.
    """
    sizes = [f"{what}, D = {dim}" for dim in VIDEO_DIMS for what in ("parameters", "GFLOPs")]
    lines = [f"| model | reads | {' | '.join(sizes)} |", "|---|---|" + "---:|" * len(sizes)]
    for name, options in variants():
        label = ", ".join([f"`{name}`", *(f"{field} {value}" for field, value in options.items())])
        reads = " + ".join(MODELS[name].model.columns)
        cells = []
        for dim in VIDEO_DIMS if "video" in reads else VIDEO_DIMS[:1]:
            parameters, flops = model_cost(
                name, width=width, **options, **({"video_dim": dim} if "video" in reads else {})
            )
            cells += [f"{parameters:,}", f"{flops / 1e9:.3f}"]
        cells += ["same"] * (len(sizes) - len(cells))
        lines.append(f"| {label} | {reads} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tyro.cli(table, description="Parameters and GFLOPs of each model, for one clip, forward."))
