"""One column shard, or several of one shard at once: decode what is not there yet, compute, commit tar and manifest.

Plain functions that take their store, media source, decoder and encoders as arguments and know no Ray. What an older
manifest of the same column holds for the same media is taken from its tar and not computed again: so a supplemented
shard costs its new clips only, and a corrected label costs no decoding at all.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from pipeline.column_reuse import repeated, reuse, tar_is_lost
from pipeline.columns import CLIP_SECONDS, Column
from pipeline.decode_process import DecodeJob, DecodeOptions, DecodeResult
from pipeline.decoder import Decoder
from pipeline.media_source import MediaSource
from pipeline.segments import Segment
from stores.forget import forget_in_column
from stores.layout import Store, StoreError
from stores.ledger import FETCHED, LedgerRow, ledger_summary, read_ledger
from stores.manifest import (
    OK,
    Manifest,
    ManifestRow,
    Sums,
    commit_manifest,
    is_current,
    read_manifest,
)
from stores.shards import Sample, write_feature_tar
from stores.spool import Spool
from stores.storage import ABSENT, StorageError

logger = logging.getLogger(__name__)

FRAMES_IN_FLIGHT = 4  # clips whose frames wait for the encoder at once, 12 MB each


class EncoderUnavailable(Exception):  # noqa: N818 - a state of the cluster, not of a clip
    """The clip encoder cannot be reached; the shard is tried again. Positional arguments only: it crosses Ray."""


@dataclass(frozen=True)
class Embedded:
    """A clip's embeddings, float32 [windows, dim], the seconds they took, and the device that computed them."""

    embedding: np.ndarray
    seconds: float
    device: str


class Encoder(Protocol):
    """A clip encoder somewhere else: frames go in, embeddings come out later."""

    def submit(self, frames: np.ndarray) -> Any:
        """Hands over a clip's frames, uint8 [M, size, size, 3]; they are copied before this returns."""

    def result(self, handle: Any) -> Embedded:
        """Waits for a clip. Raises EncoderUnavailable."""


@dataclass(frozen=True)
class ColumnReport:
    """What one call did: the summaries of all columns' manifests as they are now, without sums, and what that took."""

    split: str
    shard: int
    summaries: dict[str, dict[str, Any]]
    decoded: int = 0
    reused: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class _Work:
    """A column of the shard that is made.

    Attributes:
        old: what is there; `lost`: but its tar is not.
        again: positions of clips that are computed again whatever `old` has of them.
        rows, arrays: what has been made, by position.
        devices: that computed it.
    """

    column: Column
    old: Manifest | None
    encoder: Encoder | None
    lost: bool = False
    again: Set[int] = frozenset()
    rows: dict[int, ManifestRow] = field(default_factory=dict)
    arrays: dict[int, np.ndarray] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)


def build_column_shards(
    store: Store,
    split: str,
    shard: int,
    segments: Sequence[Segment],
    columns: Sequence[Column],
    source: MediaSource,
    decoder_for: Callable[[DecodeOptions], Decoder],
    encoders: Mapping[str, Encoder],
    *,
    labels: str,
    noted: Mapping[str, Any],
    again: Set[str] = frozenset(),
    only: Set[int] | None = None,
    progress: Callable[..., None] = lambda **_: None,
) -> ColumnReport:
    """Brings a shard's columns up to date with its ledger; those that are so already are left alone.

    Args:
        segments: the shard's planned segments, in order.
        decoder_for: gives a decoder with the given options.
        encoders: by column name, for columns that need one.
        labels: the digest of the shard's labels, see `stores.plans.labels_digests`.
        noted: versions, kept in the manifests.
        again: statuses (ok, undecodable, crashed) of clips that are computed again though nothing has changed.
        only: positions of the clips that `again` is about; None for all.
        progress: called with counts (`decoded=1`, `encoded=1`) as clips end.

    Raises:
        StoreError: the shard has no ledger yet.
        StorageError, EncoderUnavailable, ChildUnavailable: nothing was committed; try again.
        DecoderError: a bug of ours.
    """
    ledger = read_ledger(store, split, shard)
    if ledger is None:
        raise StoreError(f"shard {shard} of {split} has no ledger yet: its media come first")
    work, current = _stale(store, split, shard, columns, ledger.rows, segments, labels, encoders, again, only)
    seconds: dict[str, float] = defaultdict(float)
    if not work:
        return ColumnReport(split, shard, current)
    forgotten = store.forgotten()
    fetched = [row for row in ledger.rows if row.status == FETCHED and row.key not in forgotten]
    reused = 0
    for item in work:
        if item.old is not None and not item.lost:
            folder = store.column_folder(item.column.name, split)
            item.rows, item.arrays = reuse(store, folder, item.old, fetched, segments, item.again)
            reused += len(item.rows)
    missing = [row for row in fetched if any(row.position not in item.rows for item in work)]
    if missing:
        options = _decode_options([item.column for item in work])
        jobs = (_job(row, segments[row.position], source) for row in missing)
        with closing(decoder_for(options).decode(jobs)) as decoded:
            results = _timed(decoded, seconds, "wait_for_decode")
            _compute(results, work, {row.position: row for row in missing}, segments, seconds, progress)
    began = time.perf_counter()
    summaries = {item.column.name: _commit(store, split, shard, item, labels, noted) for item in work}
    seconds["write"] = time.perf_counter() - began
    if late := (store.forgotten() - forgotten) & {row.key for row in fetched}:
        for item in work:
            list(forget_in_column(store, item.column.name, split, shard, late))
        raise StorageError(f"shard {shard} of {split}: {', '.join(sorted(late))} was removed on request meanwhile")
    if any(row.tar is None for row in fetched):
        Spool(store, split, shard).remove_committed(ledger.rows)
    return ColumnReport(split, shard, {**current, **summaries}, len(missing), reused, dict(seconds))


def _stale(
    store: Store,
    split: str,
    shard: int,
    columns: Sequence[Column],
    rows: Sequence[LedgerRow],
    segments: Sequence[Segment],
    labels: str,
    encoders: Mapping[str, Encoder],
    again: Set[str],
    only: Set[int] | None,
) -> tuple[list[_Work], dict[str, dict[str, Any]]]:
    """The columns that have to be made, and the summaries of those that are up to date."""
    summary = ledger_summary(split, shard, rows, {})
    found: list[_Work] = []
    current: dict[str, dict[str, Any]] = {}
    for column in columns:
        old = read_manifest(store, column.name, split, shard)
        lost = old is not None and tar_is_lost(store, store.column_folder(column.name, split), old)
        anew = repeated(old, segments, again, only)
        if old and not lost and not anew and is_current(old.summary, summary, column.spec.digest, labels):
            current[column.name] = _without_sums(old.summary)
        else:
            found.append(_Work(column, old, encoders[column.name] if column.encoder else None, lost, anew))
    return found, current


def _without_sums(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary as the driver keeps it for thousands of shards: sums are 40 kB a shard and stay in the store."""
    return {name: value for name, value in summary.items() if name != "sums"}


def _decode_options(columns: Sequence[Column]) -> DecodeOptions:
    """What all columns together need of a clip."""
    rates = {column.sample_rate for column in columns} - {None}
    frames = {column.frames for column in columns} - {None}
    if len(rates) > 1 or len(frames) > 1:
        raise ValueError("columns of one run must agree on sample rate and frames; make the others in a second run")
    spec = next(iter(frames), None)
    return DecodeOptions(
        sample_rate=next(iter(rates), None),
        frames=spec,
        frame_count=round(spec.fps * CLIP_SECONDS) if spec else 0,
        logmel=bool(rates),
    )


def _job(row: LedgerRow, segment: Segment, source: MediaSource) -> DecodeJob:
    end_ms = min(segment.end_ms, segment.start_ms + 1000 * CLIP_SECONDS)
    return DecodeJob(row.position, row.key, source.load(row, segment), row.media_start_ms, segment.start_ms, end_ms)


def _timed(results: Iterator[DecodeResult], seconds: dict[str, float], stage: str) -> Iterator[DecodeResult]:
    """Adds up how long the consumer waits for each result."""
    while True:
        began = time.perf_counter()
        result = next(results, None)
        seconds[stage] += time.perf_counter() - began
        if result is None:
            return
        yield result


def _compute(
    results: Iterator[DecodeResult],
    work: Sequence[_Work],
    ledger: Mapping[int, LedgerRow],
    segments: Sequence[Segment],
    seconds: dict[str, float],
    progress: Callable[..., None],
) -> None:
    """Turns decoded clips into rows and arrays of every column that lacks them."""
    in_flight: deque[tuple[_Work, int, int, Any]] = deque()

    def collect() -> None:
        item, position, frames, handle = in_flight.popleft()
        began = time.perf_counter()
        assert item.encoder is not None
        embedded = item.encoder.result(handle)
        seconds["wait_for_encoder"] += time.perf_counter() - began
        seconds["encode"] += embedded.seconds
        item.devices.add(embedded.device)
        item.arrays[position] = _embedding(item.column, embedded.embedding, frames)
        progress(encoded=1)

    for result in results:
        progress(decoded=1)
        for stage in ("decode_s", "logmel_s"):
            seconds[stage.removesuffix("_s")] += result.facts.get(stage, 0.0)
        for item in work:
            if result.index in item.rows:
                continue
            item.rows[result.index] = _row(item.column, result, ledger[result.index], segments[result.index])
            if result.status != OK:
                continue
            if item.encoder is None:
                item.arrays[result.index] = _or_zeros(item.column, result.logmel)
            elif result.frames is None:
                item.arrays[result.index] = _or_zeros(item.column, None)
            else:
                handle = item.encoder.submit(result.frames)
                in_flight.append((item, result.index, len(result.frames), handle))
        while len(in_flight) > FRAMES_IN_FLIGHT:
            collect()
    while in_flight:
        collect()


def _or_zeros(column: Column, array: np.ndarray | None) -> np.ndarray:
    """The array, or zeros for a clip that lacks the column's track."""
    return np.zeros(column.spec.shape, column.spec.dtype) if array is None else array


def _embedding(column: Column, embedding: np.ndarray, frames: int) -> np.ndarray:
    """Windows that hold no real frame are zeros: they would be embeddings of a repeated picture."""
    array = embedding.astype(column.spec.dtype)
    if array.shape != column.spec.shape or not np.isfinite(array).all():
        raise ValueError(f"{column.name}: expected finite embeddings {column.spec.shape}, got {array.shape}")
    array[_real_windows(column, frames) :] = 0
    return array


def _real_windows(column: Column, frames: int) -> int:
    assert column.encoder is not None
    return math.ceil(frames / column.encoder.window_frames)


def _row(column: Column, result: DecodeResult, ledger: LedgerRow, segment: Segment) -> ManifestRow:
    """A clip's row, without its place in the tar."""
    row = ManifestRow(
        key=segment.key,
        status=result.status,
        words=result.words,
        ytid=segment.ytid,
        start_ms=segment.start_ms,
        end_ms=segment.end_ms,
        mids=segment.mids,
        labels=segment.labels,
        media_sha256=ledger.media_sha256,
        media_start_ms=ledger.media_start_ms,
    )
    if result.status != OK:
        return row
    facts = result.facts
    # The column's own track as it decoded, the other one as the container declares it: see docs/decisions.md.
    if column.encoder is None:
        row = replace(row, has_audio=facts["has_audio"], has_video=facts["video_track"])
        assert column.sample_rate is not None
        rows = column.spec.shape[0]
        real = min(rows, math.ceil(facts["sound_samples"] * rows / (column.sample_rate * CLIP_SECONDS)))
        short, ms = facts["audio_short"], facts["audio_ms"]
        return replace(row, mute=facts["mute"], short=short, decoded_ms=ms, real_rows=real)
    real = _real_windows(column, facts["frames"])
    row = replace(row, has_audio=facts["audio_track"], has_video=facts["has_video"])
    return replace(row, still=facts["still"], short=facts["video_short"], decoded_ms=facts["video_ms"], real_rows=real)


def _commit(store: Store, split: str, shard: int, item: _Work, labels: str, noted: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the tar, then the manifest, which is the commit. Returns the manifest's summary."""
    spec = item.column.spec
    positions = sorted(item.rows)
    ok = [position for position in positions if item.rows[position].status == OK]
    rows, tar = dict(item.rows), None
    if ok:
        samples = [Sample(rows[p].key, _meta(rows[p]), item.arrays[p]) for p in ok]
        with store.storage.scratch_file() as scratch:
            facts, places = write_feature_tar(scratch, spec.array, samples)
            path = store.column_tar_name(spec.column, split, shard, facts.digest8)
            store.storage.publish_file(scratch, path)
        tar = (path.rsplit("/", 1)[1], facts)
        rows.update({p: replace(rows[p], **asdict(place)) for p, place in zip(ok, places, strict=True)})
    sums = Sums.of((item.arrays[p][: rows[p].real_rows] for p in ok), spec.shape[-1])
    notes = {**noted, "encoder_devices": sorted(item.devices)} if item.encoder else dict(noted)
    version = item.old.version if item.old else ABSENT
    summary = commit_manifest(
        store, spec, split, shard, [rows[p] for p in positions], tar, sums, labels, notes, version
    )
    return _without_sums(summary)


def _meta(row: ManifestRow) -> dict[str, Any]:
    """A sample's json: labels, times and flags; what does not concern the column is left out."""
    flags = ("has_audio", "has_video", "mute", "still", "short", "decoded_ms", "real_rows")
    values = {name: getattr(row, name) for name in ("key", "ytid", "start_ms", "end_ms", *flags)}
    meta = {name: value for name, value in values.items() if value is not None}
    return {**meta, "mids": list(row.mids), "labels": [int(label) for label in row.labels]}
