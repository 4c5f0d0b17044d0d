"""Universal PGD, as one rank does it: from the last checkpoint to the last step. Knows torch.distributed but no Ray.

Every step reads one global batch, the same on any number of ranks, and gives every perturbation of the run one step.
Perturbations are float64 arrays that every rank keeps and changes alike.
"""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from attacks.attack_folder import AttackFolder, AttackState
from attacks.attack_options import AttackOptions
from attacks.attack_words import NOT_BETTER
from attacks.gradients import Gradients, Rules, frozen
from attacks.perturbation import SHAPE, Perturbation, measured
from models.arithmetic import arithmetic_of
from models.checkpoint import Checkpoint
from models.ranks import Ranks
from stores.layout import Store
from stores.normalizer import Normalizer
from stores.reader import Reader
from stores.snapshot import Snapshot
from stores.split_reader import Group, SplitReader
from stores.storage import Storage
from stores.text import listed

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


def attack(options: AttackOptions, ranks: Ranks, device: torch.device, progress: Progress = lambda _: None) -> None:
    """Makes the perturbations; all ranks call it alike, and the first one writes the folder.

    Args:
        progress: on the first rank, called with `step`, `steps` and `clips_per_s` after steps, and with `objectives`
            (by name, on the select split) after looks.

    Raises:
        ValueError, StoreError, CheckpointError: store, checkpoint, options and folder do not fit together.
        OutOfBall: a bug.
        PeerLost: another rank is gone; calling it again goes on from the last checkpoint.
    """
    checkpoint = read_checkpoint(options.checkpoint)
    numbers = arithmetic_of(options.precision, device)
    fit, select = (
        open_split(options, splits, checkpoint, ranks, device, numbers.weights)
        for splits in (options.fit_split, options.select_split)
    )
    model = checkpoint.build().to(device=device, dtype=numbers.weights)
    rules = Rules(options.bound, options.alpha, options.clamp, numbers.autocast)
    with frozen(model):
        gradients = Gradients(model, ranks, rules)
        _Run(options, ranks, checkpoint, fit, select, gradients, progress).go()


def read_checkpoint(path: str) -> Checkpoint:
    """A checkpoint by its path or URI.

    Raises:
        CheckpointError: damaged, or something else.
        ValueError: the path names no file, or there is none.
    """
    folder, _, name = path.rpartition("/")
    if not name:
        raise ValueError(f"expected the path of a checkpoint such as runs/csn/best.pt, got {path!r}")
    data, _ = Storage(folder or ".").read_versioned(name)
    if data is None:
        raise ValueError(f"expected a checkpoint at {path}, there is no such file")
    return Checkpoint.from_bytes(data, path)


class ReadOptions(Protocol):
    """What is read of a job's options to open a split."""

    @property
    def store(self) -> str:
        """The feature store."""

    @property
    def reader_threads(self) -> int:
        """Threads that read ahead."""

    @property
    def strict(self) -> bool:
        """Whether a damaged shard is an error."""


def open_split(
    options: ReadOptions,
    splits: tuple[str, ...],
    checkpoint: Checkpoint,
    ranks: Ranks,
    device: torch.device,
    dtype: torch.dtype,
) -> SplitReader:
    """Splits read as a checkpoint's model wants them: its columns, normalised as in its training.

    Raises:
        StoreError: the store lacks a split or a column.
        ValueError: it has another class list, or no clip.
    """
    store = options.store
    snapshot = Snapshot.open(Store.open(store), splits, list(checkpoint.columns.values()), options.strict)
    if snapshot.classes != checkpoint.classes:
        raise ValueError(f"{store}: its class list is not that of the checkpoint")
    if not len(snapshot):
        raise ValueError(f"{store}: split {', '.join(splits)} has no clip with {' and '.join(checkpoint.columns)}")
    normalizers = {
        need: Normalizer(both["mean"].numpy(), both["std"].numpy()) for need, both in checkpoint.normalizers.items()
    }
    how = (ranks, options.reader_threads, options.strict)
    return SplitReader(snapshot, checkpoint.columns, normalizers, device, dtype, *how)


class _Run:
    """The loop over steps, looks and checkpoints."""

    def __init__(
        self,
        options: AttackOptions,
        ranks: Ranks,
        checkpoint: Checkpoint,
        fit: SplitReader,
        select: SplitReader,
        gradients: Gradients,
        progress: Progress,
    ) -> None:
        self.options, self.ranks, self.checkpoint = options, ranks, checkpoint
        self.fit, self.select, self.gradients, self.progress = fit, select, gradients, progress
        self.folder = AttackFolder(options.out)
        clips = len(fit.snapshot)
        self.steps = math.ceil(options.passes * clips / options.batch_size)
        self.every = options.evaluate_every or math.ceil(clips / options.batch_size)
        found = self.folder.read_state()
        fresh = [Perturbation.start(spec, options.seed[0]) for spec in options.specs()]
        self.state = AttackState(0, None, fresh) if found is None else found

    def go(self) -> None:
        """Takes the steps that are left."""
        options, state = self.options, self.state
        reader, groups = self.fit.groups(options.order, options.group, options.seed[0], state.position)
        if not state.history:
            self._look(reader)
        with closing(groups):
            began = time.perf_counter()
            for step in range(state.step, self.steps):
                self._step(step, groups)
                state.step = step + 1
                done = state.step == self.steps
                seconds = time.perf_counter() - began
                if self.ranks.first:
                    clips_per_s = options.batch_size / max(seconds, 1e-9)
                    self.progress({"step": state.step, "steps": self.steps, "clips_per_s": clips_per_s})
                if state.step % self.every == 0 or done:
                    self._look(reader)
                elif state.step % options.checkpoint_every == 0:
                    self._save(reader)
                began = time.perf_counter()
        if self.ranks.first:
            self.folder.write_results(state, self._about(), self._warnings(reader))
        self.ranks.wait()

    def _step(self, step: int, groups: Generator[Group, None, None]) -> None:
        options, per_step = self.options, self.options.groups_per_step
        first = step * per_step
        mine = sum(number % self.ranks.size == self.ranks.rank for number in range(first, first + per_step))
        sums = self.gradients.step(self.state.perturbations, list(islice(groups, mine)), first, per_step)
        for item, found in zip(self.state.perturbations, sums, strict=True):
            if item.spec.rule == "accumulated":
                frames = found.clips * int(item.spec.mask.array().any(1).sum())
                item.accumulate(found.vector / len(self.fit.snapshot), frames, found.still)
            else:
                item.step(found.vector, options.alpha, step, self.steps)

    def _look(self, reader: Reader) -> None:
        """Measures every perturbation on the select split, keeps the best, and leaves a checkpoint."""
        items, step = self.state.perturbations, self.state.step
        specs = [item.spec for item in items]
        values = self.gradients.objectives(
            specs, [item.delta for item in items], self.select.groups_once(self.options.group)
        )
        norms = [measured(item.delta) for item in items]
        for i, (item, value) in enumerate(zip(items, values, strict=True)):
            item.look(value, step)
            for smaller in items[:i] if self.options.warm_start else ():
                item.take_over(smaller)
        line: dict[str, Any] = {
            "step": step,
            "objectives": {spec.name: value for spec, value in zip(specs, values, strict=True)},
            "norms": {spec.name: value for spec, value in zip(specs, norms, strict=True)},
        }
        if not self.state.history:
            line["clean"] = self._clean()
        self.state.history.append(line)
        if self.ranks.first:
            self.progress({"step": step, "objectives": line["objectives"]})
        self._save(reader)

    def _clean(self) -> dict[str, float]:
        """The objectives on the select split without a perturbation, by the objective's name."""
        specs = list({spec.objective: replace(spec, rule="projected") for spec in self.options.specs()}.values())
        zeros = [np.zeros(SHAPE)] * len(specs)
        values = self.gradients.objectives(specs, zeros, self.select.groups_once(self.options.group))
        return {spec.objective: value for spec, value in zip(specs, values, strict=True)}

    def _save(self, reader: Reader) -> None:
        self.state.position = reader.position(self.state.step * self.options.groups_per_step)
        if self.ranks.first:
            self.folder.write_state(self.state)
        self.ranks.wait()

    def _about(self) -> dict[str, Any]:
        """What the results are of."""
        return {
            "options": self.options.decisive(),
            "checkpoint": self.checkpoint.digest,
            "model": self.checkpoint.model["model"],
            "columns": dict(self.checkpoint.columns),
            "fit_snapshot": self.fit.snapshot.digest,
            "select_snapshot": self.select.snapshot.digest,
            "fit_clips": len(self.fit.snapshot),
            "select_clips": len(self.select.snapshot),
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "avlens": version("avlens"),
            },
        }

    def _warnings(self, reader: Reader) -> list[str]:
        shared = sorted(set(self.options.fit_split) & set(self.options.select_split))
        found = [f"fitted and selected on the same split: {', '.join(shared)}"] if shared else []
        reach = self.steps * self.options.alpha
        short = sorted({item.spec.epsilon for item in self.state.perturbations if reach < item.spec.epsilon < math.inf})
        if short:
            sizes = listed([f"{epsilon:g}" for epsilon in short])
            found.append(f"{self.steps} steps of α {self.options.alpha:g} cannot reach ε {sizes}: give more --passes")
        zero = [item.spec.name for item in self.state.perturbations if item.best is None or not item.best.any()]
        if zero:
            found.append(f"{NOT_BETTER}: {listed(zero, 3)}")
        return found + [f"left out: {file}: {reason}" for file, reason in reader.quarantined.items()]
