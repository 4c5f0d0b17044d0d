"""What the summary in a table's footer holds. Checked wherever one is read, so that no command trips over a table that
was edited by hand, or that another program or a later release has written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

FORMAT = 1  # of a store and of its tables
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class _Shape:
    """What a value has to be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(_are_texts(item) and len(item) == 2 for item in value)


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_tar_name(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".tar") and "/" not in value and "\0" not in value


def _are_tar_facts(value: Any) -> bool:
    return isinstance(value, dict) and _is_count(value.get("size")) and isinstance(value.get("sha256"), str)


def _is_tar(value: Any) -> bool:
    return value is None or (_are_tar_facts(value) and _is_tar_name(value.get("name")))


def _are_tars(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_tar_name(name) and _are_tar_facts(value[name]) for name in value)


def _are_sums(value: Any) -> bool:
    lists = [value.get(name) for name in ("total", "squares")] if isinstance(value, dict) else [None]
    return all(isinstance(found, list) and set(map(type, found)) <= {float} for found in lists) and _is_count(
        value.get("count")
    )


_COUNT = _Shape("a whole number from 0", _is_count)
_TEXT = _Shape("a text", lambda value: isinstance(value, str))
_COUNTS = _Shape("whole numbers from 0 by name", _are_counts)
_SHARD = {"split": _TEXT, "shard": _COUNT}

_SHAPES = {
    "plan": {
        "split": _TEXT,
        "segments": _COUNT,
        "classes": _Shape("a list of mids and names", _are_pairs),
        "labels_sha256": _Shape("a list of texts", _are_texts),
    },
    "media": {
        **_SHARD,
        "planned": _COUNT,
        "fetched": _COUNT,
        "failed": _COUNTS,
        "pending": _COUNTS,
        "next_attempt": _Shape("null or a time with its zone", lambda value: value is None or _is_time(value)),
        "input_digest": _TEXT,
        "tars": _Shape("names of tars with size and sha256", _are_tars),
        "media_bytes": _COUNT,
        "traffic": _COUNT,
        "attempts": _COUNT,
    },
    "features": {
        **_SHARD,
        "column": _TEXT,
        "spec_digest": _TEXT,
        "input_digest": _TEXT,
        "labels_digest": _TEXT,
        "counts": _COUNTS,
        "flags": _COUNTS,
        "tar": _Shape("null or a tar's name, size and sha256", _is_tar),
        "sums": _Shape("count, total and squares", _are_sums),
        "noted": _Shape("an object", lambda value: isinstance(value, dict)),
    },
}
_OPTIONAL = ("labels_sha256",)  # older plans have none


def check_summary(summary: Any, name: str) -> dict[str, Any]:
    """A table's summary, if it can be that of the table of this name in a store.

    What another table's says of tars would cost a shard its own. Tables elsewhere (scores, inventories) are checked by
    those who read them.

    Args:
        summary: as parsed from JSON.
        name: of the table, in the store: `plan/<split>.parquet`, `media/<split>/<shard>.parquet`,
            `features/<column>/<split>/<shard>.parquet`.

    Raises:
        ValueError: it is another one's, of another format, or not of this shape.
    """
    if not isinstance(summary, dict):
        raise ValueError(f"expected an object as its summary, got {summary!r:.100}")
    place = place_of(name)
    if place is None:
        return summary
    kind, expected = place
    if summary.get("format") != FORMAT:
        raise ValueError(
            f"it has format {summary.get('format')!r:.100}, this program reads format {FORMAT}: use the avlens release "
            "that wrote it"
        )
    found = {key: summary.get(key) for key in expected}
    if found != expected:
        raise ValueError(f"it is another one's: expected {expected}, got {found!s:.200}")
    for key, shape in _SHAPES[kind].items():
        if key not in summary and key not in _OPTIONAL:
            raise ValueError(f"its summary has no {key}")
        if key in summary and not shape.fits(summary[key]):
            raise ValueError(f"expected {key} in its summary as {shape.words}, got {summary[key]!r:.100}")
    return summary


def place_of(name: str) -> tuple[str, dict[str, Any]] | None:
    """A table's kind (`plan`, `media`, `features`) and what its summary has to say by its name; None where the name is
    none of a store's table."""
    kind, *folders = name.split("/")[:-1] or [""]
    stem = name.rsplit("/", 1)[-1].removesuffix(".parquet")
    if kind == "plan" and not folders:
        return kind, {"split": stem}
    if (kind, len(folders)) not in (("media", 1), ("features", 2)) or not stem.isdecimal():
        return None
    expected: dict[str, Any] = {"split": folders[-1], "shard": int(stem)}
    return kind, {**expected, "column": folders[0]} if kind == "features" else expected
