"""Mean and deviation per mel bin over a corpus: of a snapshot's own column, or out of a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stores.snapshot import Snapshot

# Names of the two arrays in files: ours, and those of TALNet's normalizer (RECIPE.md 1).
_NAMES = (("mean", "std"), ("mu", "sigma"))


@dataclass(frozen=True)
class Normalizer:
    """(x − mean) / std, per bin.

    Attributes:
        mean, std: float32 [bins], in the column's unit (dB for a log-mel); std > 0.

    Raises:
        ValueError: not two finite rows of one length, or a deviation that is not positive.
    """

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape or not len(self.mean):
            raise ValueError(f"expected a mean and a deviation per bin, got {self.mean.shape} and {self.std.shape}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, getattr(self, name).astype(np.float32))
        if not (np.isfinite(self.mean).all() and np.isfinite(self.std).all()):
            raise ValueError("expected finite means and deviations, got others")
        flat = np.flatnonzero(self.std <= 0)
        if len(flat):
            raise ValueError(
                f"expected positive deviations, got {self.std[flat[0]]} in bin {flat[0]} and in {len(flat) - 1} more: "
                "a bin that never changes cannot be normalised; is the corpus more than silence?"
            )

    @property
    def digest(self) -> str:
        """16 hex digits that follow from the values: what a checkpoint names to say how its input was normalised."""
        return hashlib.sha256(np.stack([self.mean, self.std]).astype("<f4").tobytes()).hexdigest()[:16]

    @classmethod
    def of(cls, snapshot: Snapshot, column: str, constant_std: float = 0.0) -> Normalizer:
        """A column's corpus statistics: population mean and deviation over the real rows of its clips in the splits.

        Clips that the snapshot left out because another column lacks them count too: the statistics are the column's.

        Args:
            column: by its name in the snapshot.
            constant_std: what a bin that never changes is divided by, once its mean is gone; 0 makes it an error.

        Raises:
            ValueError: no such column, no row, or a bin that never changes.
        """
        sums = snapshot.column(column).sums
        count, (total, squares) = sums[0], np.split(sums[1:], 2)
        if count == 0:
            raise ValueError(f"expected clips with real rows of {column} to normalise by, got none")
        mean = total / count
        # Rounding can leave a constant bin with a variance just off zero, on either side.
        variance = squares / count - np.square(mean)
        variance[variance <= 1e-12 * np.square(mean)] = constant_std**2
        return cls(mean, np.sqrt(variance))

    @classmethod
    def load(cls, path: str | Path) -> Normalizer:
        """A .npz of `mean` and `std`, or of TALNet's `mu` and `sigma`. Raises ValueError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                for mean, std in _NAMES:
                    if mean in file and std in file:
                        return cls(np.asarray(file[mean], np.float64), np.asarray(file[std], np.float64))
                names = ", ".join(file)
        except (AttributeError, TypeError, EOFError, ValueError) as error:
            raise ValueError(f"expected a .npz of means and deviations at {path}: {error}") from error
        raise ValueError(f"expected mean and std, or mu and sigma, in {path}, found {names or 'nothing'}")

    def save(self, path: str | Path) -> None:
        """Writes a .npz that `load` reads."""
        with open(path, "wb") as file:
            np.savez(file, mean=self.mean, std=self.std)
