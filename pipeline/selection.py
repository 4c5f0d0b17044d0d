"""Which clips a run is about: those of a list, those of some classes, or all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.segments import Segment

_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}_\d{1,9}")


@dataclass(frozen=True)
class Selection:
    """Clips by key or class; a clip that either names is selected, and all are where neither is given.

    Attributes:
        keys: None for no list.
        mids: of classes.
    """

    keys: frozenset[str] | None = None
    mids: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        """Whether nothing was chosen."""
        return self.keys is None and not self.mids

    def has(self, segment: Segment) -> bool:
        """Whether a clip is selected."""
        return self.everything or segment.key in (self.keys or ()) or not self.mids.isdisjoint(segment.mids)

    def shards(self, plan: pa.Table) -> set[int] | None:
        """Shards of a plan (`stores.tables.PLAN_SCHEMA`) that have a selected clip; None for all."""
        if self.everything:
            return None
        named = pc.is_in(plan["key"], pa.array(sorted(self.keys or ()), pa.string()))
        mids = plan["mids"].combine_chunks()
        parents = pc.list_parent_indices(mids).filter(
            pc.is_in(pc.list_flatten(mids), pa.array(sorted(self.mids), pa.string()))
        )
        return {*plan["shard"].filter(named).to_pylist(), *plan["shard"].take(parents).to_pylist()}

    def unplanned(self, plans: Sequence[pa.Table]) -> set[str]:
        """Keys that no plan has."""
        wanted = pa.array(sorted(self.keys or ()), pa.string())
        there = (plan["key"].filter(pc.is_in(plan["key"], wanted)).to_pylist() for plan in plans)
        return set(self.keys or ()).difference(*there)

    def positions(self, segments: Sequence[Segment]) -> frozenset[int] | None:
        """Positions of a shard's clips that are selected; None for all."""
        if self.everything:
            return None
        return frozenset(position for position, segment in enumerate(segments) if self.has(segment))


def read_keys(path: str) -> frozenset[str]:
    """Keys of a file: the first field of each line, by tabs or commas; `python -m stores failed` gives it second.

    Raises:
        ValueError: no text, a line without a key, or none at all.
        OSError: the file cannot be read.
    """
    found = set()
    try:
        text = Path(path).read_text()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text, a key in each line: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in re.split(r"[\t,]", line)]
        keys = [field for field in fields[:2] if _KEY.fullmatch(field)]
        if not keys:
            raise ValueError(f"{path}, line {number}: expected a key <ytid>_<start in ms>, got {line[:80]!r}")
        found.update(keys)  # a split's name may look like one; it is no clip's
    if not found:
        raise ValueError(f"{path}: expected a key in each line, found none")
    return frozenset(found)
