"""One shard of real media, and all that computing its columns needs, without Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from media_factory import Audio, Video, write_media
from scripted_fetcher import ScriptedFetcher, segments

from pipeline.column_shard import ColumnReport, Embedded, build_column_shards
from pipeline.columns import Column, EncoderOptions, build_columns
from pipeline.decode_process import DecodeOptions
from pipeline.decoder import Decoder
from pipeline.media_shard import FetchPolicy, MediaReport, build_media_shard
from pipeline.media_source import MediaSource
from pipeline.permits import Unpaced
from pipeline.weights import resolve_weights
from stores.layout import Store
from stores.manifest import Manifest, read_manifest

OPTIONS = EncoderOptions(resolve_weights("random:0", "r2plus1d_18"), window_frames=8, fps=8.0, frame_size=32)
PLANNED = segments(5)
KEYS = [segment.key for segment in PLANNED]


class MeanEncoder:
    """Not a network: an embedding is the mean colour of each window, so that its rows can be foretold."""

    def __init__(self, windows: int, dim: int) -> None:
        self.windows, self.dim, self.calls = windows, dim, 0

    def submit(self, frames: np.ndarray) -> np.ndarray:
        self.calls += 1
        return frames.copy()

    def result(self, handle: np.ndarray) -> Embedded:
        frames = handle[np.minimum(np.arange(self.windows * 8), len(handle) - 1)]
        means = frames.reshape(self.windows, -1).mean(axis=1, dtype=np.float64)
        return Embedded(np.repeat(means[:, None], self.dim, axis=1).astype(np.float32), 0.1, "a test")


class Bench:
    """One shard of real media and what is needed to compute its columns."""

    def __init__(self, root: str, media: list[bytes], decoders: dict[DecodeOptions, Decoder], **options: Any) -> None:
        self.store = Store.open_or_create(root, shard_size=5, **options)
        self.fetcher = ScriptedFetcher({key: [clip] for key, clip in zip(KEYS, media, strict=True)})
        self.columns = build_columns(["logmel", "r2plus1d_18"], lambda _: OPTIONS)
        self.encoder = MeanEncoder(10, 512)
        self.decoders = decoders
        self.labels = "0" * 64
        self.planned = PLANNED

    def fetch(self, **changes: Any) -> MediaReport:
        policy = replace(FetchPolicy(wait_s=0.0), **changes)
        return build_media_shard(self.store, "eval", 0, self.planned, Unpaced(Positioned(self.fetcher)), policy)

    def compute(self, columns: tuple[Column, ...] | None = None, **more: Any) -> ColumnReport:
        columns = columns or self.columns
        source = MediaSource(self.store, "eval", 0, None)
        encoders = {column.name: self.encoder for column in columns if column.encoder}
        what = (self.store, "eval", 0, self.planned, columns, source, self.decoder, encoders)
        return build_column_shards(*what, labels=self.labels, noted={}, **more)

    def decoder(self, options: DecodeOptions) -> Decoder:
        if options not in self.decoders:
            self.decoders[options] = Decoder(options, processes=2)
        return self.decoders[options]

    def manifest(self, column: Column) -> Manifest:
        manifest = read_manifest(self.store, column.name, "eval", 0)
        assert manifest is not None
        return manifest

    def tar(self, column: Column) -> bytes:
        name = self.manifest(column).summary["tar"]["name"]
        return self.store.storage.read(f"features/{column.name}/eval/{name}")


class Positioned:
    """Every clip's media begin with its segment."""

    def __init__(self, inner: ScriptedFetcher) -> None:
        self.inner = inner

    def fetch(self, segment):
        return replace(self.inner.fetch(segment), media_start_ms=0)

    def close(self) -> None:
        pass


def make_media(folder: Path) -> list[bytes]:
    """Both tracks, sound only, picture only, six seconds of ten, and a page instead of media."""
    picture = Video(fps=8, width=64, height=64)
    made = [
        write_media(folder / "both.mp4", picture, Audio()),
        write_media(folder / "sound.mp4", None, Audio(amplitude=0.0)),
        write_media(folder / "picture.mp4", picture, None),
        write_media(folder / "short.mp4", replace(picture, seconds=6.0), Audio(seconds=6.0)),
    ]
    return [*(path.read_bytes() for path in made), b"plain text, named .mp4"]
