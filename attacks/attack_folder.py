"""What an attack leaves in its folder, and how one that was cut off is taken up again.

    config.json               what decides the result; another attack does not fit in
    state.npz                 where to go on, with all perturbations and their history: the commit
    deltas/<name>.npy         float32 [400, 64], the best iterate; deltas/<name>.png the same as a picture
    deltas/<name>.json        which one it is, its norms as measured, and how it came to be
    summary.json              when the attack has ended: every perturbation in a line, warnings, digests

Each file is replaced whole, in one atomic step.
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attacks.delta_picture import draw_delta
from attacks.perturbation import SHAPE, Perturbation, Spec, measured
from stores.job_folder import JobFolder
from stores.position import Position

STATE, DELTAS = "state.npz", "deltas"
KIND, FORMAT = "avlens attack", 1
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, TypeError, LookupError, AttributeError),
)


@dataclass
class AttackState:
    """An attack after so many steps.

    Attributes:
        step: steps taken.
        position: of the next sample; None before the first step.
        perturbations: as they are, in the order of the options.
        history: what was measured, one dict for each look at the select split.
    """

    step: int
    position: Position | None
    perturbations: list[Perturbation]
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """A file's content; equal states give equal bytes."""
        meta = {
            "kind": KIND,
            "format": FORMAT,
            "step": self.step,
            "position": None if self.position is None else self.position.to_dict(),
            "perturbations": [
                {
                    "spec": item.spec.to_dict(),
                    "best_value": item.best_value if item.best is not None else None,
                    "best_step": item.best_step,
                    "units": item.units,
                    "still": item.still,
                    "inherited": item.inherited,
                }
                for item in self.perturbations
            ],
            "history": self.history,
        }
        arrays = {
            "deltas": np.stack([item.delta for item in self.perturbations]),
            "best": np.stack([item.delta if item.best is None else item.best for item in self.perturbations]),
            "meta": np.frombuffer(json.dumps(meta, sort_keys=True).encode(), np.uint8),
        }
        sink = io.BytesIO()
        np.savez(sink, **arrays)  # type: ignore[arg-type]
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> AttackState:
        """The inverse of `to_bytes`. Raises ValueError for anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as raw:
                meta = json.loads(raw["meta"].tobytes())
                deltas, best = raw["deltas"], raw["best"]
            if (meta["kind"], meta["format"]) != (KIND, FORMAT):
                raise ValueError(f"expected {KIND} of format {FORMAT}, got {meta['kind']} of {meta['format']}")
            wanted = (len(meta["perturbations"]), *SHAPE)
            if deltas.shape != wanted or best.shape != wanted or {deltas.dtype, best.dtype} != {np.dtype(np.float64)}:
                raise ValueError(f"expected float64 {wanted}, got {deltas.dtype} {deltas.shape} and {best.shape}")
            rows = zip(meta["perturbations"], deltas, best, strict=True)
            position = None if meta["position"] is None else Position.from_dict(meta["position"])
            return cls(meta["step"], position, [_perturbation(*row) for row in rows], meta["history"])
        except _UNREADABLE as error:
            raise ValueError(f"{name} is no readable state of an attack ({error}): remove it to begin anew") from None


def _perturbation(raw: Mapping[str, Any], delta: np.ndarray, best: np.ndarray) -> Perturbation:
    value = raw["best_value"]
    return Perturbation(
        spec=Spec.from_dict(raw["spec"]),
        delta=delta.copy(),
        best=None if value is None else best.copy(),
        best_value=-math.inf if value is None else value,
        best_step=raw["best_step"],
        units=raw["units"],
        still=raw["still"],
        inherited=raw["inherited"],
    )


class AttackFolder(JobFolder):
    """An attack's files."""

    def read_state(self) -> AttackState | None:
        """Where it was; None before the first checkpoint. Raises ValueError where the file is damaged."""
        data, _ = self.storage.read_versioned(STATE)
        return None if data is None else AttackState.from_bytes(data, self.storage.url(STATE))

    def write_state(self, state: AttackState) -> None:
        """Leaves a checkpoint."""
        self.storage.publish(STATE, state.to_bytes())

    def write_results(self, state: AttackState, about: Mapping[str, Any], warnings: Sequence[str]) -> None:
        """Leaves every perturbation's best iterate, and the summary that ends the attack.

        Args:
            about: what holds for all of them: options, digests, versions.
            warnings: in words.
        """
        listed = []
        for item in state.perturbations:
            assert item.best is not None
            delta = item.best.astype(np.float32)
            norms = measured(delta)
            record = {
                "name": item.spec.name,
                **item.spec.to_dict(),
                "norms": norms,
                "objective_on_select": item.best_value,
                "clean_objective_on_select": state.history[0]["clean"][item.spec.objective],
                "best_step": item.best_step,
                "inherited_from": item.inherited or None,
                "steps": state.step,
                "still_share": item.still / item.units if item.units else 0.0,
            }
            history = [
                {"step": line["step"], "objective": line["objectives"][item.spec.name], **line["norms"][item.spec.name]}
                for line in state.history
            ]
            place = f"{DELTAS}/{item.spec.name}"
            sink = io.BytesIO()
            np.save(sink, delta)
            self.storage.publish(f"{place}.npy", sink.getvalue())
            self.storage.publish(f"{place}.png", draw_delta(delta, item.spec.name, norms))
            full = {**record, "history": history, "warnings": list(warnings), **about}
            self.storage.publish(f"{place}.json", json.dumps(full, indent=2, sort_keys=True).encode())
            listed.append(record)
        self.write_summary({**about, "warnings": list(warnings), "perturbations": listed, "steps": state.step})
