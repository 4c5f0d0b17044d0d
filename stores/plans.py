"""What follows from a split's plan alone: its class list and the digests that tell when its labels have changed."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LABELLED = ("key", "mids", "labels")  # the columns of a plan that the digests are of
DIGESTS = "labels_sha256"  # where a plan's summary has them
# A comma and a space, from their bytes: made of Python's texts, they would cost an import of pandas, half a second.
_SIGNS = pa.StringArray.from_buffers(2, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b", "))


def labels_digests(plan: pa.Table, shard_size: int) -> tuple[str, ...]:
    """By shard, the sha256 of one line a clip: key, mids and class indices, in plan order."""
    # Cast before slicing: Arrow casts the whole parent of every slice (12 s instead of 0.3 s for two million rows).
    indices = plan["labels"].cast(pa.list_(pa.string()))
    comma, space = _SIGNS[0], _SIGNS[1]
    joined = (pc.binary_join(plan["mids"], comma), pc.binary_join(indices, comma))
    lines = pc.binary_join_element_wise(plan["key"], *joined, space)
    digests = []
    for start in range(0, len(lines), shard_size):
        text = "\n".join(lines.slice(start, shard_size).to_pylist())
        digests.append(hashlib.sha256(text.encode()).hexdigest())
    return tuple(digests)


def digests_of(plan: pa.Table, summary: dict[str, Any], shard_size: int) -> tuple[str, ...]:
    """A stored plan's digests, as its summary has them; computed where it was written before summaries had them."""
    return tuple(summary[DIGESTS]) if DIGESTS in summary else labels_digests(plan, shard_size)


def class_names(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """(mid, display name) by class index, out of a plan's summary."""
    return [(mid, name) for mid, name in summary.get("classes", ())]
