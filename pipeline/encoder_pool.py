"""Clip encoders as Ray actors: loaded once each, restarted without limit, used by every shard.

On a GPU an actor takes a share of it. On a CPU it takes none of Ray's CPUs: shards that wait for it hold theirs, and an
actor that needed one to come back after its node was lost would wait for them for ever.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, ObjectLostError, ObjectStoreFullError, RayActorError, RayTaskError
from ray.util.metrics import Histogram

from pipeline.column_shard import Embedded, EncoderUnavailable
from pipeline.columns import Column, EncoderOptions

CPU_THREADS = 2
# What asks for no resource at all goes to a random node, whatever its strategy (ray-project/ray pull request 25360).
A_BYTE = 1
ENCODE_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]  # bounds of a histogram


class ClipEncoderServer:
    """One clip encoder on one device.

    It reads its weights itself, wherever it is started: constructor arguments in Ray's object store are lost with their
    node, and then an actor cannot come back (ray-project/ray issue 53727).
    """

    def __init__(self, architecture: str, options: EncoderOptions) -> None:
        # Imported here because only the actors need torch, and whoever holds a pool imports this module.
        import torch

        from models.clip_encoder import ClipEncoder
        from pipeline.weights import load_state_dict, resolve_weights

        self.device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(CPU_THREADS)
        weights = options.weights
        if weights.source == "ig65m":  # downloaded once per node; the driver's copy may be out of reach here
            weights = replace(resolve_weights(weights.source, architecture), sha256=weights.sha256)
        state = load_state_dict(weights, architecture)
        self.encoder = ClipEncoder(architecture, state, dtype=options.dtype, device=self.device)
        self.options = options
        on_gpu = self.device.type == "cuda"
        self._seconds = Histogram(
            "avlens_encoder_seconds",
            description="Seconds of the clip encoder for a clip",
            boundaries=ENCODE_SECONDS,
            tag_keys=("encoder",),
        )
        self._seconds.set_default_tags({"encoder": architecture})
        self.name = torch.cuda.get_device_name(self.device) if on_gpu else f"cpu, {CPU_THREADS} threads"

    def encode(self, frames: np.ndarray) -> Embedded:
        """Embeds one clip's frames, uint8 [M, size, size, 3]. One clip a call: the shape is always the same.

        Raises:
            EncoderUnavailable: the device's memory is taken by somebody else.
        """
        import torch

        from models.clip_encoder import split_windows

        began = time.perf_counter()
        windows, _ = split_windows(frames, self.options.window_frames, self.options.windows)
        try:
            embedding = self.encoder(torch.from_numpy(windows)).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise EncoderUnavailable(f"{self.name}: {error}") from None
        seconds = time.perf_counter() - began
        self._seconds.observe(seconds)
        return Embedded(embedding, seconds, self.name)


# Typed loosely because Ray rewrites the class.
EncoderActor: Any = ray.remote(max_restarts=-1, max_task_retries=-1)(ClipEncoderServer)


class EncoderPool:
    """The actors of one column; handed to shard tasks, where it is a `pipeline.column_shard.Encoder`."""

    def __init__(self, actors: list[Any]) -> None:
        self.actors = actors
        self._next = random.randrange(len(actors))

    @classmethod
    def start(cls, column: Column, actors: int | None, gpus_each: float, pools: int = 1) -> EncoderPool:
        """Starts the actors of a column.

        Args:
            actors: how many; None for as many as the cluster's GPUs hold, or one on a CPU.
            gpus_each: share of a GPU that each takes, where the cluster has GPUs.
            pools: how many pools share the cluster's GPUs.

        Raises:
            ValueError: the GPUs do not hold that many; actors that have no place would be waited for for ever.
        """
        assert column.encoder is not None
        architecture = column.spec.feature
        gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
        share = gpus_each if any(gpus) else 0.0
        count = actors or 1
        if share:
            # A share lies on one GPU; several whole ones on one node.
            places = sum(n * int(1 / share) if share <= 1 else int(n // share) for n in gpus) // pools
            count = actors or places
            if not 1 <= count <= places:
                raise ValueError(
                    f"{count} encoder actors of {share:g} GPU for each of {pools} columns: {sum(gpus)} GPUs hold less; "
                    "lower --encoder-gpus or --encoder-actors, or make one column at a time"
                )
        options = {"num_cpus": 0, "num_gpus": share, "memory": A_BYTE, "scheduling_strategy": "SPREAD"}
        return cls([EncoderActor.options(**options).remote(architecture, column.encoder) for _ in range(count)])

    def submit(self, frames: np.ndarray) -> Any:
        """See `pipeline.column_shard.Encoder`. Ray copies the frames into its object store before this returns."""
        self._next = (self._next + 1) % len(self.actors)
        try:
            return self.actors[self._next].encode.remote(frames)
        except ObjectStoreFullError as error:
            raise EncoderUnavailable(f"{type(error).__name__}: {error}") from None

    def result(self, handle: Any) -> Embedded:
        """See `pipeline.column_shard.Encoder`."""
        try:
            return ray.get(handle)
        except (RayActorError, ActorUnavailableError, ObjectLostError) as error:
            raise EncoderUnavailable(f"{type(error).__name__}: {error}") from None
        except RayTaskError as error:
            if isinstance(error.cause, EncoderUnavailable):
                raise EncoderUnavailable(*error.cause.args) from None
            raise
