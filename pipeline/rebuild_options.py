"""What `pipeline/rebuild.py` is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import tyro

from pipeline.columns import EncoderOptions
from pipeline.failures import Cause
from pipeline.fetch import source_kind
from pipeline.options import IngestOptions, absolute_folder, absolute_path
from pipeline.weights import resolve_weights
from stores.rebuild import parse_shards

Several = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True)
class RebuildOptions:
    """Bring a store's columns up to date with its media and labels, without a list and without fetching anything.

    `python -m stores plan-rebuild` shows what would be done, and why.
    """

    store: str
    """The store: a directory or an fsspec URI (s3://…, gs://…)."""
    split: Several = ()
    """Only this split; may be given several times."""
    columns: str | None = None
    """Only these columns, separated by commas: full names, or those of features (logmel). Default: all of the store."""
    shards: str | None = None
    """Only these shards of each split: 3,7-9."""
    again: str | None = None
    """Also compute clips anew that are up to date, by status, separated by commas: ok, undecodable, crashed; or all."""
    source: str = "none"
    """dir:PATH where media are files of a folder that stayed where they were."""

    encoder_weights: str | None = None
    """Weights of the clip encoder: ig65m, a file, or random:SEED; they must be those of the column's spec."""
    encoder_actors: int | None = None
    """Encoder actors. Default: as many as the cluster's GPUs hold, or one on a CPU."""
    encoder_gpus: float = 1.0
    """Share of a GPU that an encoder actor takes, where there are GPUs."""
    cpus_per_shard: int = 1
    """CPUs, and decode processes, of one shard."""
    seconds_per_clip: float = 120.0
    """Time limit for decoding a clip."""
    max_failed_fraction: float = 1.0
    """Share of planned clips that may have failed with the exit code still 0."""

    def __post_init__(self) -> None:
        if source_kind(self.source) not in ("none", "dir"):
            raise ValueError(f"expected --source of none or dir:PATH, got {self.source}: a rebuild fetches nothing")
        if self.shards is not None:
            parse_shards(self.shards)
        known = {"ok", "undecodable", "crashed", "all"}
        if unknown := [name for name in self._again if name not in known]:
            raise ValueError(f"expected --again of {', '.join(sorted(known))}; got {', '.join(unknown)}")

    @property
    def _again(self) -> list[str]:
        return [] if self.again is None else self.again.split(",")

    @property
    def statuses(self) -> frozenset[str]:
        """Statuses of clips that are computed anew though nothing has changed."""
        return frozenset({"ok", "undecodable", "crashed"} if "all" in self._again else self._again)

    @property
    def shard_numbers(self) -> list[int] | None:
        """The shards; None for all."""
        return None if self.shards is None else parse_shards(self.shards)

    def encoder(self, architecture: str, constants: Mapping[str, Any]) -> EncoderOptions:
        """How a stored column's clip encoder is run. Raises ValueError where no weights were named."""
        if self.encoder_weights is None:
            raise ValueError(f"{architecture} needs --encoder-weights: those that the column was made with")
        weights = resolve_weights(self.encoder_weights, architecture)
        frames = constants["frames"]
        return EncoderOptions(weights, constants["dtype"], constants["window_frames"], frames["fps"], frames["size"])

    def ingest_options(self) -> IngestOptions:
        """The same for the loop over shards."""
        return IngestOptions(
            store=self.store,
            source=self.source,
            segments=(),
            columns="none",
            retry=",".join(sorted(self.statuses & {str(Cause.UNDECODABLE), str(Cause.CRASHED)})),
            encoder_actors=self.encoder_actors,
            encoder_gpus=self.encoder_gpus,
            cpus_per_shard=self.cpus_per_shard,
            seconds_per_clip=self.seconds_per_clip,
            max_failed_fraction=self.max_failed_fraction,
            wait=0.0,
        )


def absolute_paths(options: RebuildOptions, environment: dict[str, str] | None = None) -> RebuildOptions:
    """The same options with local paths made absolute, as workers elsewhere need them.

    Raises:
        ValueError: a relative path inside a submitted job, where the working directory is a copy that is thrown away.
    """
    source, weights = options.source, options.encoder_weights
    if source_kind(source) == "dir":
        source = absolute_path("--source", source.removeprefix("dir:"), environment, "dir:")
    if weights is not None and weights != "ig65m" and not weights.startswith("random:"):
        weights = absolute_path("--encoder-weights", weights, environment)
    store = absolute_folder("--store", options.store, environment)
    return replace(options, store=store, source=source, encoder_weights=weights)
