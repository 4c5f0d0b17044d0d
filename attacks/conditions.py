"""What a checkpoint is scored under: clean, attacked, noisy, and with a sound that is not the clip's own."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from attacks.attack_folder import DELTAS, AttackFolder
from attacks.noise import same_norm_noise
from attacks.perturbation import SHAPE, Spec, measured
from models.recogniser import Recogniser

# own: the clip's; shuffled: another clip's; silent: zeros, the corpus mean in every bin; branch: none, the score of
# late fusion's video branch.
Sound = Literal["own", "shuffled", "silent", "branch"]
CLEAN = "clean"


@dataclass(frozen=True, eq=False)
class Delta:
    """A finished perturbation.

    Attributes:
        id: tells it from those of other attacks: digests of the checkpoint that it was made with and of the attack's
            options, and its name.
        values: float32 [400, 64].
        spec: which one it is.
        record: what its attack said of it.
    """

    id: str
    values: np.ndarray
    spec: Spec
    record: dict[str, Any]

    def noise(self, draw: int) -> np.ndarray:
        """Random noise of its own norm within its mask, float32; draw i is the same for every checkpoint."""
        seed = int.from_bytes(hashlib.sha256(f"{self.spec.name} {draw}".encode()).digest()[:8])
        generator = np.random.default_rng(seed)
        mask = self.spec.mask.array()
        made = same_norm_noise(self.values.astype(np.float64), self.spec.norm, self.spec.scope, mask, generator)
        return made.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Condition:
    """One way to score a split.

    Attributes:
        kind: `clean`, `attacked`, `noise`, or a `Sound` that is not the clip's own.
        sound: what the model hears.
        delta: float32 [400, 64], added to it; None for nothing.
        of: id of the perturbation that it is about; empty for none.
        draw: number of the noise.
    """

    kind: str
    sound: Sound = "own"
    delta: np.ndarray | None = None
    of: str = ""
    draw: int = 0

    @property
    def stored(self) -> bool:
        """Whether its scores are kept: of noise, the first draw's only."""
        return self.kind != "noise" or self.draw == 0

    @property
    def file(self) -> str:
        """Name of its scores' file, without a suffix."""
        return "_".join(part for part in (self.kind, self.of) if part)


def read_deltas(folder: str) -> list[Delta]:
    """The perturbations of a finished attack.

    Raises:
        ValueError: it has not ended, or its files are not what they should be.
        StorageError: the backend failed.
    """
    attack = AttackFolder(folder)
    summary = attack.summary()
    if summary is None or "perturbations" not in summary:
        raise ValueError(
            f"expected the folder of a finished attack at {folder}: run attacks/universal_pgd.py to its end"
        )
    found = []
    for item in summary["perturbations"]:
        data, _ = attack.storage.read_versioned(f"{DELTAS}/{item['name']}.npy")
        recorded, _ = attack.storage.read_versioned(f"{DELTAS}/{item['name']}.json")
        if data is None or recorded is None:
            raise ValueError(f"{folder}: {item['name']}: its .npy or .json is missing from {DELTAS}")
        try:
            record, values = json.loads(recorded), np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{folder}: {item['name']}: its .npy or .json is damaged ({type(error).__name__})"
            ) from None
        if values.shape != SHAPE or values.dtype != np.float32:
            raise ValueError(f"{folder}: {item['name']}: expected float32 {SHAPE}, got {values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"{folder}: {item['name']}: expected finite numbers, got NaN or infinity among them")
        size, noted = measured(values)["l2"], record.get("norms", {}).get("l2")
        if noted is not None and not math.isclose(size, noted, rel_tol=1e-5, abs_tol=1e-9):
            raise ValueError(f"{folder}: {item['name']}: its l2 norm is {size:g}, its record says {noted:g}: another δ")
        options = hashlib.sha256(json.dumps(summary["options"], sort_keys=True).encode()).hexdigest()
        name = f"{summary['checkpoint'][:8]}-{options[:6]}-{item['name']}"
        about = {"sha256": hashlib.sha256(data).hexdigest(), "folder": folder}
        found.append(Delta(name, values, Spec.from_dict(item), {**record, **about}))
    return found


def conditions_for(model: Recogniser, deltas: Sequence[Delta], noise_draws: int) -> Iterator[Condition]:
    """Everything that a checkpoint is scored under, the clean score first.

    A model of the picture alone has nothing to be perturbed; one of both has also the sounds of others, no sound, and,
    where it has one, its video branch alone.
    """
    yield Condition(CLEAN)
    if "logmel" not in model.columns:
        return
    if "video" in model.columns:
        yield Condition("shuffled", "shuffled")
        yield Condition("silent", "silent")
        if has_video_branch(model):
            yield Condition("branch", "branch")
    for delta in deltas:
        yield Condition("attacked", delta=delta.values, of=delta.id)
        for draw in range(noise_draws):
            yield Condition("noise", delta=delta.noise(draw), of=delta.id, draw=draw)


def has_video_branch(model: Recogniser) -> bool:
    """Whether `encode_video` gives scores of their own: late fusion."""
    from models.fusion import LateFusion

    return isinstance(model, LateFusion)
