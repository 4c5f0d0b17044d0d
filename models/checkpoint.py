"""What a training run leaves: weights and everything needed to use them, or to go on. Bytes in, bytes out.

A checkpoint is one file of torch.save that holds tensors, numbers, texts, lists and dicts only, and is read with
`weights_only=True`: a stranger's file can be wrong, but it cannot run anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from models.recogniser import Recogniser
from models.registry import build_from_config

KIND, FORMAT = "avlens checkpoint", 1


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
            raw = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
            raise CheckpointError(f"{name} is no readable checkpoint: {str(error).splitlines()[0]}") from None
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise CheckpointError(f"{name}: expected a checkpoint of pipeline/train.py, got another file of torch.save")
        if raw.get("format") != FORMAT:
            raise CheckpointError(
                f"{name}: expected format {FORMAT}, got {raw.get('format')}: written by another version"
            )
        lacking = [item.name for item in fields(cls) if item.name not in raw]
        if lacking:
            raise CheckpointError(f"{name}: {', '.join(lacking)} missing")
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
            CheckpointError: the weights do not fit the model that the config describes.
        """
        model = build_from_config(self.model)
        try:
            model.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise CheckpointError(f"weights of another model than its config's: {error}") from None
        floats = {value.dtype for value in self.weights.values() if value.is_floating_point()}
        return model.to(floats.pop() if len(floats) == 1 else torch.float32).eval()
