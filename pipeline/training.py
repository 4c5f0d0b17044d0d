"""Training, as one rank does it: from the last checkpoint to the last step. Knows torch.distributed but no Ray.

Everything random follows from the seed, the step and the group; the order of samples is one global sequence. So a run
that was cut off and taken up again, on any number of ranks, is the run that was not.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch

from models.arithmetic import Arithmetic, arithmetic_of
from models.checkpoint import Checkpoint
from models.evaluation import metrics_over, scores_of
from models.metrics import Metrics
from models.ranks import Ranks
from models.recogniser import Recogniser
from models.registry import build, config_dict, entry_of
from pipeline.run_folder import BEST, LAST, RunFolder, RunLog
from pipeline.train_options import TrainOptions
from pipeline.training_data import open_splits
from pipeline.training_step import NonFiniteLoss, StepResult, StepRules, TrainingStep, learning_rate_of
from stores.position import Position
from stores.scores import ClipScores, ScoresOrigin, write_scores
from stores.split_reader import Group, SplitReader

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]


@dataclass
class _State:
    """What a run is made of on one rank. `best` is the best mAP so far, None before the first evaluation."""

    model: Recogniser
    optimizer: torch.optim.Optimizer
    step: int
    position: Position | None
    best: float | None


def train(options: TrainOptions, ranks: Ranks, device: torch.device, progress: Progress = lambda _: None) -> None:
    """Trains until the last step; all ranks call it alike, and the first one writes the run's folder.

    Args:
        progress: on the first rank, called with `step`, `loss`, `clips_per_s` and `wait_s` (for the reader) after
            steps, and with `valid` after evaluations.

    Raises:
        ValueError, StoreError, CheckpointError: store, options and folder do not fit together.
        NonFiniteLoss: the run is over; the last checkpoint is sound.
        PeerLost: another rank is gone; calling it again goes on from the last checkpoint.
    """
    folder = RunFolder(options.out)
    numbers = arithmetic_of(options.precision, device)
    train_split, valid_split = open_splits(
        options, entry_of(options.model).model.columns, ranks, device, numbers.weights
    )
    state = _start(options, folder, train_split, numbers)
    rules = StepRules(
        seed=options.seed,
        learning_rate=options.learning_rate,
        warmup=options.warmup_steps,
        steps=options.steps,
        autocast=numbers.autocast,
        mixup=options.mixup,
        spec_augment=options.spec_augment,
    )
    run = _Run(options, ranks, folder, train_split, valid_split, state, rules, progress)
    try:
        run.go()
    finally:
        run.close()


def _start(options: TrainOptions, folder: RunFolder, data: SplitReader, numbers: Arithmetic) -> _State:
    """A new run's state, or that of its last checkpoint."""
    fields = {**options.model_fields(), "classes": data.snapshot.class_count}
    if "video" in data.columns:
        fields["video_dim"] = data.snapshot.column(data.columns["video"]).spec.shape[-1]
    torch.manual_seed(options.seed)  # equal weights on every rank
    model = build(options.model, **fields).to(device=data.device, dtype=numbers.weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate, betas=(0.9, 0.999))
    last = folder.read(LAST)
    if last is None:
        return _State(model, optimizer, 0, None, None)
    if last.columns != data.columns:
        raise ValueError(
            f"{options.out} was trained on {dict(last.columns)}, and the store now gives {data.columns}: name the "
            "columns with --columns, or give another --out"
        )
    model.load_state_dict(dict(last.weights))
    optimizer.load_state_dict(last.trainer["optimizer"])
    position = Position.from_dict(last.trainer["position"])
    return _State(model, optimizer, last.step, position, last.trainer["best"])


class _Run:
    """The loop over steps, evaluations and checkpoints."""

    def __init__(
        self,
        options: TrainOptions,
        ranks: Ranks,
        folder: RunFolder,
        data: SplitReader,
        valid: SplitReader,
        state: _State,
        rules: StepRules,
        progress: Progress,
    ) -> None:
        self.options, self.ranks, self.folder, self.data, self.valid = options, ranks, folder, data, valid
        self.state, self.rules, self.progress = state, rules, progress
        self.take = TrainingStep(state.model, state.optimizer, ranks, rules, options.groups_per_step)
        self.log = RunLog(folder, state.step) if ranks.first else None
        self.waited_s = 0.0

    def go(self) -> None:
        """Takes the steps that are left."""
        options, state = self.options, self.state
        reader, groups = self.data.groups(options.order, options.group, options.seed, state.position)
        state.model.train()
        began = time.perf_counter()
        with closing(groups):
            for step in range(state.step, options.steps):
                result = self.take(step, self._share(groups, step))
                state.step = step + 1
                seconds, began = time.perf_counter() - began, time.perf_counter()
                self._note(result, seconds)
                if state.step % options.evaluate_every == 0 or state.step == options.steps:
                    state.position = reader.position(state.step * options.groups_per_step)
                    self._evaluate()
                    began = time.perf_counter()
        if self.ranks.first:
            self._end(reader.quarantined)
        self.ranks.wait()

    def close(self) -> None:
        """Lets go of the files."""
        if self.log:
            self.log.close()

    def _share(self, groups: Generator[Group, None, None], step: int) -> Iterator[Group]:
        """This rank's groups of a step: every so-manieth of the global sequence."""
        per_step, ranks = self.options.groups_per_step, self.ranks
        first = step * per_step
        mine = sum(number % ranks.size == ranks.rank for number in range(first, first + per_step))
        return self._timed(islice(groups, mine))

    def _timed(self, groups: Iterator[Group]) -> Iterator[Group]:
        """Adds up how long a step waits for its groups."""
        self.waited_s = 0.0
        while True:
            began = time.perf_counter()
            group = next(groups, None)
            self.waited_s += time.perf_counter() - began
            if group is None:
                return
            yield group

    def _note(self, result: StepResult, seconds: float) -> None:
        if self.log:
            rate = learning_rate_of(self.state.step - 1, self.rules)
            line = {"step": self.state.step, "loss": result.loss, "learning_rate": rate, "clips": result.clips}
            self.log.add({**line, "gradient_norm": result.gradient_norm, "seconds": round(seconds, 4)})
            self.progress({**line, "clips_per_s": result.clips / seconds, "wait_s": self.waited_s})

    def _evaluate(self) -> None:
        """Scores the validation split and leaves a checkpoint; when it is the best one, with its scores."""
        state = self.state
        keys, scores, targets = self._scores()
        if any(self.ranks.gather(bool(np.isnan(scores).any()))):
            raise NonFiniteLoss(
                f"after step {state.step} the model's scores of the validation split are NaN; the weights of the last "
                "checkpoint are sound: lower --learning-rate"
            )
        metrics = metrics_over(self.ranks, scores, targets)
        better = state.best is None or metrics.mean_ap > state.best
        state.best = metrics.mean_ap if better else state.best
        parts = self.ranks.gather_to_first((keys, scores, targets)) if better else None
        if self.log:
            line = {"step": state.step, "valid": _measured(metrics)}
            self.log.add(line)
            self.progress(line)
            checkpoint = self._checkpoint(metrics)
            data = checkpoint.to_bytes()
            if better:
                self.folder.storage.publish(BEST, data)
                assert parts is not None
                self._write_scores(parts, checkpoint.digest)
            self.log.publish()
            self.folder.storage.publish(LAST, data)  # the commit: see run_folder.py
        # Nobody goes on before the checkpoint is there: a rank that is lost from here on costs no step before it.
        self.ranks.wait()

    def _scores(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Keys, scores and targets of this rank's share of the validation split."""
        keys: list[str] = []
        targets = [np.empty((0, self.valid.snapshot.class_count), bool)]

        def inputs() -> Iterator[dict[str, torch.Tensor]]:
            for names, batch, truth in self.valid.once(self.options.group):
                keys.extend(names)
                targets.append(truth)
                yield batch

        scores = scores_of(self.state.model, inputs(), self.valid.snapshot.class_count, self.rules.autocast)
        return keys, scores, np.concatenate(targets)

    def _write_scores(self, parts: list[tuple[list[str], np.ndarray, np.ndarray]], checkpoint: str) -> None:
        keys = [key for names, _, _ in parts for key in names]
        scores, targets = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        order = np.argsort(np.array(keys))  # the same file from any number of ranks
        split = "+".join(self.options.valid_split)
        snapshot = self.valid.snapshot
        noted = {"step": self.state.step, "seed": self.options.seed}
        origin = ScoresOrigin(self.options.model, checkpoint, split, snapshot.digest, snapshot.classes, noted)
        ordered = [keys[i] for i in order], scores[order].astype(np.float32), targets[order], origin
        write_scores(self.folder.storage, f"scores/{split}.parquet", ClipScores(*ordered))

    def _checkpoint(self, metrics: Metrics) -> Checkpoint:
        state, data = self.state, self.data
        assert state.position is not None
        optimizer = state.optimizer.state_dict()
        return Checkpoint(
            model=config_dict(state.model),
            weights={name: value.detach().cpu() for name, value in state.model.state_dict().items()},
            step=state.step,
            classes=data.snapshot.classes,
            columns=dict(data.columns),
            normalizers={
                need: {"mean": torch.from_numpy(value.mean), "std": torch.from_numpy(value.std)}
                for need, value in data.normalizers.items()
            },
            options=self.options.decisive(),
            metrics=_measured(metrics),
            versions={
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "avlens": version("avlens"),
            },
            trainer={"optimizer": optimizer, "position": state.position.to_dict(), "best": state.best},
        )

    def _end(self, quarantined: dict[str, str]) -> None:
        best = self.folder.read(BEST)
        assert best is not None
        found = {"step": best.step, **best.metrics}
        self.folder.write_summary({"steps": self.state.step, "best": found, "quarantined": quarantined})


def _measured(metrics: Metrics) -> dict[str, Any]:
    """The macro numbers of a split, JSON."""
    return {name: value for name, value in metrics.as_dict().items() if name != "per_class"}
