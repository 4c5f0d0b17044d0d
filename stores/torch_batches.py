"""Batches as tensors on a device: moved, cast to float32 and normalised there; for a GPU one batch ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from stores.batch import Batch
from stores.normalizer import Normalizer
from stores.snapshot import Snapshot

# By array name in the column's spec, the flag that says whether a clip has the track that the array is made from.
_TRACKS = {"logmel": "has_audio", "video": "has_video"}


@dataclass(frozen=True)
class TorchBatch:
    """A batch of n clips on a device.

    Attributes:
        arrays: by column name, float32 [n, *shape], normalised where a normalizer was given.
        targets: float32 [n, classes], 1 where a clip has a class, else 0.
        batch: what it was made from, without its arrays: keys, flags, number, positions, what is missing.
    """

    arrays: Mapping[str, torch.Tensor]
    targets: torch.Tensor
    batch: Batch


class TorchBatches:
    """Turns batches into tensors.

    A clip that lacks a column's track (`has_audio` or `has_video` false) is stored as zeros. It is zeros after
    normalisation too: the corpus mean in every bin, which is what a model knows of a sound when there is none. Stored
    zeros taken as they are would be 0 dB in every bin, which is a loud sound.

    Args:
        batches: a reader, or any batches of its snapshot.
        snapshot: the reader's.
        device: where the tensors go. For a CUDA device they pass through pinned memory, without waiting for the copy.
        normalizers: by column name.
        ahead: batches prepared in a background thread while the caller works; 0 prepares each when it is asked for.
            None is one for a GPU, and none for a CPU: there a second thread that computes costs the caller more than
            it saves (docs/decisions.md, "Reader"), and readers fetch ahead by themselves.

    Raises:
        ValueError: a normalizer for no column, or of another width.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        snapshot: Snapshot,
        device: torch.device | str = "cpu",
        normalizers: Mapping[str, Normalizer] | None = None,
        ahead: int | None = None,
    ) -> None:
        self._batches, self._device = batches, torch.device(device)
        self._ahead = int(self._device.type != "cpu") if ahead is None else ahead
        self._classes = snapshot.class_count
        self._tracks = {column.name: _TRACKS.get(column.spec.array) for column in snapshot.columns}
        self._scales: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, normalizer in (normalizers or {}).items():
            column = snapshot.column(name)
            if normalizer.mean.shape != column.spec.shape[-1:]:
                raise ValueError(f"{name}: expected {column.spec.shape[-1]} means, got {len(normalizer.mean)}")
            self._scales[column.name] = (self._moved(normalizer.mean), self._moved(normalizer.std))

    def __iter__(self) -> Iterator[TorchBatch]:
        source = iter(self._batches)
        if self._ahead == 0:
            try:
                yield from map(self._tensors, source)
            finally:
                if isinstance(source, Generator):  # a reader that prefetches stops now, not when it is collected
                    source.close()
            return
        waiting: deque[Future[TorchBatch | None]] = deque()

        def following() -> TorchBatch | None:
            batch = next(source, None)
            return None if batch is None else self._tensors(batch)

        # One thread: the source is an iterator, which two must not ask at once.
        with ThreadPoolExecutor(1, "avlens-batches") as pool:
            try:
                waiting.extend(pool.submit(following) for _ in range(self._ahead + 1))
                while (found := waiting.popleft().result()) is not None:
                    waiting.append(pool.submit(following))
                    yield found
            finally:
                for future in waiting:
                    future.cancel()
                if isinstance(source, Generator):
                    pool.submit(source.close)  # on the thread that may be inside it

    def _tensors(self, batch: Batch) -> TorchBatch:
        arrays = {name: self._prepared(name, array, batch.flags) for name, array in batch.arrays.items()}
        targets = torch.zeros(len(batch), self._classes, device=self._device)
        rows, labels = self._moved(batch.label_rows()), self._moved(batch.labels.astype(np.int64))
        targets[rows, labels] = 1.0
        return TorchBatch(arrays, targets, batch.without_arrays())

    def _prepared(self, name: str, array: np.ndarray, flags: Mapping[str, np.ndarray]) -> torch.Tensor:
        # Moved as stored: float16 is half the traffic. Always a copy: the reader fills the array's memory again.
        values = self._moved(array).to(torch.float32, copy=True)
        track = self._tracks[name]
        if name in self._scales:
            mean, std = self._scales[name]
            values.sub_(mean).div_(std)
            if track is not None and not flags[track].all():
                values[self._moved(~flags[track])] = 0.0
        return values

    def _moved(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        pinned = tensor.pin_memory() if self._device.type == "cuda" else tensor
        return pinned.to(self._device, non_blocking=True)
