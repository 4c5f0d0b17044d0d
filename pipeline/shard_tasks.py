"""The two Ray tasks of a shard, fetch and columns: what each needs on its node, and what a worker keeps for others."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import ray

from pipeline.clip import Fetcher, FetchOptions
from pipeline.column_shard import ColumnReport, build_column_shards
from pipeline.columns import Column
from pipeline.decode_process import DecodeOptions
from pipeline.decoder import Decoder
from pipeline.egress import Egress
from pipeline.encoder_pool import A_BYTE, EncoderPool
from pipeline.fetch import open_source, scope_of
from pipeline.gatekeeper_actor import Entry, RayDoor
from pipeline.media_shard import FetchPolicy, MediaReport, build_media_shard
from pipeline.media_source import MediaSource
from pipeline.options import IngestOptions
from pipeline.permits import Paced, Source, Unpaced
from pipeline.politeness import Limits
from pipeline.segments import Segment
from pipeline.tally import TallyClient
from stores.layout import Store


@dataclass(frozen=True)
class JobContext:
    """What every task of a run needs; small, so it travels with each."""

    store: str
    source: str
    fetch: FetchOptions
    egresses: tuple[Egress, ...]
    limits: Mapping[str, Limits]
    policy: FetchPolicy
    columns: tuple[Column, ...]
    again: frozenset[str]
    processes: int
    seconds_per_clip: float
    source_is_folder: bool


@functools.lru_cache(maxsize=2)
def _files(source: str, options: FetchOptions) -> Fetcher:
    """One fetcher of a folder per worker process: it keeps the listing."""
    return open_source(source, options)


_sources: dict[tuple[str, str, FetchOptions, tuple[Egress, ...]], Source] = {}


def _source(context: JobContext, keeper: Any) -> Source:
    """One source per worker process: it keeps connections and sessions, for each egress."""
    if context.source_is_folder:
        return Unpaced(_files(context.source, context.fetch))
    key = (context.store, context.source, context.fetch, context.egresses)
    if key not in _sources:
        open_by = {
            egress.name: functools.partial(open_source, context.source, egress.options(context.fetch))
            for egress in context.egresses
        }
        limited = frozenset(name for name, limits in context.limits.items() if limits.requests_per_second)
        _sources[key] = Paced(RayDoor(keeper, Entry(context.store, context.limits)), open_by, limited)
    return _sources[key]


_decoders: dict[tuple[DecodeOptions, int], Decoder] = {}


def _decoder(options: DecodeOptions, processes: int) -> Decoder:
    """The decoder of this worker process, kept from shard to shard: its processes take seconds to start."""
    if (options, processes) not in _decoders:
        while _decoders:
            _decoders.popitem()[1].close()
        _decoders[options, processes] = Decoder(options, processes)
    return _decoders[options, processes]


@ray.remote(num_cpus=0, memory=A_BYTE, max_retries=-1, scheduling_strategy="SPREAD")
def fetch_task(
    context: JobContext,
    split: str,
    shard: int,
    segments: list[Segment],
    only: frozenset[int] | None,
    keeper: Any,
    tally: Any,
) -> MediaReport:
    """Runs `build_media_shard` on some node."""
    progress = TallyClient(tally)
    store, source = Store.open(context.store), _source(context, keeper)
    try:
        return build_media_shard(store, split, shard, segments, source, context.policy, only=only, progress=progress)
    finally:
        progress.flush()


@ray.remote(max_retries=-1, scheduling_strategy="SPREAD")
def column_task(
    context: JobContext,
    split: str,
    shard: int,
    segments: list[Segment],
    only: frozenset[int] | None,
    labels: str,
    encoders: dict[str, EncoderPool],
    tally: Any,
) -> ColumnReport:
    """Runs `build_column_shards` on some node."""
    progress = TallyClient(tally)
    store = Store.open(context.store)
    files = _files(context.source, replace(context.fetch, keep=False)) if context.source_is_folder else None
    try:
        return build_column_shards(
            store,
            split,
            shard,
            segments,
            context.columns,
            MediaSource(store, split, shard, files),
            lambda options: _decoder(replace(options, seconds_per_clip=context.seconds_per_clip), context.processes),
            encoders,
            labels=labels,
            noted={"torch": version("torch")},
            again=context.again,
            only=only,
            progress=progress,
        )
    finally:
        progress.flush()


def job_context(options: IngestOptions, columns: tuple[Column, ...], again: frozenset[str]) -> JobContext:
    """What the options of an ingest mean for its tasks."""
    policy = FetchPolicy(
        keep_media=options.keep_media,
        keep_spool=not options.keep_media and bool(columns),
        threads=options.fetch_threads,
        retry=options.retry_causes,
        retry_delay_s=options.retry_delay,
        wait_s=options.wait,
    )
    fetch = FetchOptions(
        proxy=options.proxy,
        cookie_file=options.cookies,
        keep=options.keep_media,
        read_timeout_s=options.read_timeout,
        deadline_s=options.fetch_deadline,
    )
    # A budget is one address's at one source: a job that reads a server of ours takes nothing of YouTube's.
    scope = scope_of(options.source)
    egresses = tuple(replace(one, name=f"{scope}_{one.name}") for one in options.egress_list)
    return JobContext(
        store=options.store,
        source=options.source,
        fetch=fetch,
        egresses=egresses,
        limits={
            one.name: one.limits(options.per_hour, options.requests_per_second, options.retry_delay) for one in egresses
        },
        policy=policy,
        columns=columns,
        again=again,
        processes=options.cpus_per_shard,
        seconds_per_clip=options.seconds_per_clip,
        source_is_folder=options.kind == "dir",
    )
