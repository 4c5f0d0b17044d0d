"""What a training run leaves: weights and everything needed to use them, or to go on. Bytes in, bytes out.

A checkpoint is one file of torch.save that holds tensors, numbers, texts, lists and dicts only, and is read with
`weights_only=True`: a stranger's file can be wrong, but it cannot run anything. It is a zip archive; each of its parts
has a checksum, which torch.load does not look at and `from_bytes` does.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from models.recogniser import Recogniser
from models.registry import build_from_config

KIND, FORMAT = "avlens checkpoint", 1
# What zipfile and torch.load raise for bytes that are not what they should be.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, OSError, EOFError),
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
)


class CheckpointError(ValueError):
    """The bytes are no checkpoint, or one that this version cannot use. The words say of what and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A recogniser after so many steps.

    Attributes:
        model: its name and config, see `models.registry.config_dict`.
        weights: its state dict, on the CPU.
        step: optimiser steps taken.
        classes: (mid, display name) by class index.
        columns: by the model's column (`logmel`, `video`), the full name, digest included, of the store's column that
            it was trained on.
        normalizers: by the model's column, `mean` and `std`, float32 [bins], that its input has been normalised with;
            columns without one were taken as stored.
        options: how it was trained.
        metrics: of the validation split at this step; empty before the first evaluation.
        versions: of torch and the project.
        trainer: what only going on with the training needs: optimiser state, position in the data, best so far.
    """

    model: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    step: int
    classes: tuple[tuple[str, str], ...]
    columns: Mapping[str, str]
    normalizers: Mapping[str, Mapping[str, Tensor]]
    options: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """A file's content."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["classes"] = [list(pair) for pair in self.classes]
        sink = io.BytesIO()
        torch.save({"kind": KIND, "format": FORMAT, **values}, sink)
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Checkpoint:
        """The inverse of `to_bytes`; tensors are on the CPU.

        Args:
            name: of the file, for the error.

        Raises:
            CheckpointError: something else, a damaged file, or one of another format.
        """
        try:
            _check_archive(data)
            raw = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Torch's own words advise to load it without the restriction, which runs what a stranger wrote.
            raise CheckpointError(
                f"{name} is no readable checkpoint: it holds more than tensors, numbers, texts, lists and dicts"
            ) from None
        except _UNREADABLE as error:
            words = str(error).splitlines() or [type(error).__name__]
            raise CheckpointError(f"{name} is no readable checkpoint: {words[0]}") from None
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise CheckpointError(f"{name}: expected a checkpoint of pipeline/train.py, got another file of torch.save")
        if raw.get("format") != FORMAT:
            raise CheckpointError(
                f"{name}: expected format {FORMAT}, got {raw.get('format')}: written by another version"
            )
        wrong = [item.name for item in fields(cls) if not _PARTS[item.name](raw.get(item.name))]
        if wrong:
            raise CheckpointError(f"{name}: {', '.join(wrong)} missing, or not what a checkpoint has there")
        values = {item.name: raw[item.name] for item in fields(cls)}
        return cls(**{**values, "classes": tuple((mid, text) for mid, text in raw["classes"])})

    @property
    def digest(self) -> str:
        """sha256 (hex) of what decides its scores: model, classes, columns, normalisers, weights.

        Not of the file's bytes: torch.save writes equal values in more than one way.
        """
        said = {
            "model": dict(self.model),
            "classes": [list(pair) for pair in self.classes],
            "columns": dict(self.columns),
        }
        found = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        scales = {
            f"{column} {name}": value for column, both in self.normalizers.items() for name, value in both.items()
        }
        for name, value in [*sorted(scales.items()), *sorted(self.weights.items())]:
            found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            found.update(
                value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else str(value.item()).encode()
            )
        return found.hexdigest()

    def build(self) -> Recogniser:
        """The recogniser with its weights, in eval mode, on the CPU.

        Raises:
            CheckpointError: no such model, or weights that are not those of the model that the config describes.
        """
        floats = {value.dtype for value in self.weights.values() if value.is_floating_point()}
        dtype = floats.pop() if len(floats) == 1 else torch.float32
        try:
            # The type first: float64 weights copied into a float32 model would be rounded.
            model = build_from_config(self.model).to(dtype)
            model.load_state_dict(dict(self.weights))
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"weights of another model than its config's: {error}") from None
        return model.eval()


def _check_archive(data: bytes) -> None:
    """Compares every part with its checksum. Raises one of `_UNREADABLE`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # torch.save never compresses; a small file that unpacks to a huge one is not from there.
        packed = [part.filename for part in archive.infolist() if part.compress_type != zipfile.ZIP_STORED]
        damaged = packed[0] if packed else archive.testzip()
    if damaged is not None:
        raise ValueError(f"its part {damaged} is damaged")


def _is_normalizers(value: Any) -> bool:
    return _is_dict(value) and all(
        _is_dict(pair) and {"mean", "std"} <= pair.keys() and all(isinstance(row, Tensor) for row in pair.values())
        for pair in value.values()
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_classes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in value
    )


_PARTS: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_dict,
    "weights": lambda value: _is_dict(value) and all(isinstance(tensor, Tensor) for tensor in value.values()),
    "step": lambda value: type(value) is int and value >= 0,
    "classes": _is_classes,
    "columns": lambda value: _is_dict(value) and all(isinstance(name, str) for name in value.values()),
    "normalizers": _is_normalizers,
    **dict.fromkeys(("options", "metrics", "versions", "trainer"), _is_dict),
}
