"""A column's spec: every constant that decides its values, as canonical JSON; its digest names the column.

Two ingests with equal specs write into one column; any other constant makes another column beside it. What may change
without changing values (device, thread counts, library patch versions) is noted in manifests and stays out of the spec.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_COLUMN = re.compile(r"^[a-z0-9_]+-[0-9a-f]{8}$")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


@dataclass(frozen=True)
class Spec:
    """What a column is.

    Attributes:
        feature: the feature's name (`logmel`, `r2plus1d_34`), first part of the column's name.
        array: the array's name inside a sample (`logmel`, `video`): `<key>.<array>.npy`.
        shape: of one sample's array.
        dtype: numpy name of the stored array's type.
        constants: everything else that decides the values; JSON types only.
    """

    feature: str
    array: str
    shape: tuple[int, ...]
    dtype: str
    constants: Mapping[str, Any]

    def to_json(self) -> str:
        """Canonical JSON, as stored in `features/<column>/spec.json`."""
        return canonical_json(
            {
                "feature": self.feature,
                "array": self.array,
                "shape": list(self.shape),
                "dtype": self.dtype,
                "constants": dict(self.constants),
            }
        )

    @cached_property
    def digest(self) -> str:
        """First 8 hex digits of the canonical JSON's sha256."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:8]

    @cached_property
    def column(self) -> str:
        """The column's name in the store: `<feature>-<digest>`."""
        return f"{self.feature}-{self.digest}"

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The inverse of `to_json`. Raises ValueError for anything else."""
        try:
            raw = json.loads(text)
            made = cls(raw["feature"], raw["array"], tuple(raw["shape"]), raw["dtype"], raw["constants"])
            if made.to_json() != canonical_json(raw) or not made.shape or not isinstance(made.constants, dict):
                raise TypeError("other fields or types")
            return made
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"expected a column's spec.json, got {text[:80]!r}") from error


def is_column(name: str) -> bool:
    """Whether a folder's name is a column's (`logmel-1a2b3c4d`)."""
    return bool(_COLUMN.match(name))
