"""A small real store, built through the stores' own API, for tests of whatever reads one."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stores.layout import Store
from stores.ledger import FAILED, FETCHED, PENDING, LedgerRow, commit_ledger, read_ledger
from stores.manifest import CRASHED, OK, UNDECODABLE, ManifestRow, Sums, commit_manifest, read_manifest
from stores.plans import labels_digests
from stores.shards import Sample, write_feature_tar, write_media_tar
from stores.specs import Spec
from stores.storage import ABSENT
from stores.summaries import FORMAT
from stores.tables import PLAN_SCHEMA

SPLIT = "eval"
SHARD_SIZE = 5
CLASSES = [
    ("/m/09x0r", "Speech"),
    ("/m/04rlf", "Music"),
    ("/m/0bt9lr", "Dog"),
    ("/m/015p6", "Bird"),
    ("/m/0k4j", "Car"),
    ("/m/07yv9", "Vehicle"),
    ("/m/0342h", "Guitar"),
    ("/m/03m9d0z", "Wind"),
]
# Ids as YouTube has them: leading dashes, and two that differ by case only.
YTIDS = ["-ZVcQPBr6Sx", "--4gqARaEJE", "aBcDeFgHiJk", "aBcDeFgHiJK", "xN9j_0yZy-4", "_wW_hb3Dq0k"]
YTIDS += [f"clip{number:07d}" for number in range(6)]
LOGMEL = Spec(
    feature="logmel",
    array="logmel",
    shape=(400, 64),
    dtype="float16",
    constants={
        "logmel": {
            "sample_rate_hz": 16_000,
            "hop_samples": 400,
            "n_mels": 64,
            "f_min_hz": 0.0,
            "f_max_hz": 8000.0,
            "mel_scale": "slaney",
        }
    },
)
VIDEO = Spec("r2plus1d_18", "video", (10, 512), "float16", {"weights": {"kind": "random", "seed": 0}})
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOT_BEFORE = datetime(2026, 11, 23, 13, 30, tzinfo=UTC)
# What became of the clips that were not fetched, by (shard, position).
UNFETCHED: dict[tuple[int, int], dict[str, Any]] = {
    (0, 2): {"status": FAILED, "cause": "gone", "words": "HTTP status 404"},
    (1, 0): {"status": FAILED, "cause": "gone_here", "words": "not available in your country"},
    (1, 4): {"status": PENDING, "cause": "throttled", "words": "HTTP status 429", "not_before": NOT_BEFORE},
}
# Clips that were fetched and have no features, by (shard, position).
BROKEN = {(0, 4): (UNDECODABLE, "neither picture nor sound"), (1, 2): (CRASHED, "decoder took 4 GiB")}
NO_PICTURE, NO_SOUND = (0, 1), (1, 1)


def make_plan(shard_size: int = SHARD_SIZE) -> pa.Table:
    """Twelve planned clips, `PLAN_SCHEMA`; each has one to three of the classes."""
    rows = []
    for index, ytid in enumerate(YTIDS):
        labels = [(index * 3 + step) % len(CLASSES) for step in range(1 + index % 3)]
        start_ms = 10_000 * (index % 4)
        rows.append(
            {
                "shard": index // shard_size,
                "position": index % shard_size,
                "key": f"{ytid}_{start_ms}",
                "ytid": ytid,
                "start_ms": start_ms,
                "end_ms": start_ms + 10_000,
                "mids": [CLASSES[label][0] for label in labels],
                "labels": labels,
            }
        )
    return pa.Table.from_pylist(rows, PLAN_SCHEMA)


def plan_store(folder: Path, split: str = SPLIT, shard_size: int = SHARD_SIZE) -> Store:
    """A store in which twelve clips are planned and nothing is done."""
    store = Store.open_or_create(str(folder), shard_size=shard_size)
    summary = {"format": FORMAT, "split": split, "segments": len(YTIDS), "classes": [list(pair) for pair in CLASSES]}
    store.write_plan(split, make_plan(shard_size), summary)
    return store


def make_store(folder: Path, columns: Sequence[Spec] = (LOGMEL, VIDEO), shards: Sequence[int] = (0, 1, 2)) -> Store:
    """A store of three shards (5, 5 and 2 clips): of the twelve, 9 are fetched, 2 failed, 1 is pending; of the 9, each
    column has 7. With `shards`, only those are committed."""
    store = plan_store(folder)
    for shard in shards:
        commit_media(store, shard)
        for spec in columns:
            commit_column(store, spec, shard)
    return store


def commit_media(store: Store, shard: int, split: str = SPLIT, fetch: Iterable[int] = ()) -> None:
    """Commits a shard's media tar and ledger; positions in `fetch` are fetched against what `UNFETCHED` says. A second
    commit supplements the first by a further tar."""
    before = read_ledger(store, split, shard)
    old = {row.position: row for row in before.rows if row.status == FETCHED} if before else {}
    rows = [old.get(row["position"]) or _ledger_row(row, set(fetch)) for row in _planned(store, split, shard)]
    tars = dict(before.tars) if before else {}
    new = [row for row in rows if row.status == FETCHED and row.tar is None]
    if new:
        name, facts, offsets = _write_media(store, split, shard, new)
        tars[name] = facts
        placed = {row.position: replace(row, tar=name, offset=offsets[f"{row.key}.mp4"]) for row in new}
        rows = [placed.get(row.position, row) for row in rows]
    commit_ledger(store, split, shard, rows, tars, before.version if before else ABSENT)


def commit_column(store: Store, spec: Spec, shard: int, split: str = SPLIT) -> None:
    """Computes a column shard from its ledger (arrays are made up, see `array_of`) and commits it."""
    store.write_spec(spec)
    ledger, before = read_ledger(store, split, shard), read_manifest(store, spec.column, split, shard)
    assert ledger is not None
    planned = _planned(store, split, shard)
    rows = [_manifest_row(spec, planned[row.position], row, shard) for row in ledger.rows if row.status == FETCHED]
    ok = [row for row in rows if row.status == OK]
    tar = None
    if ok:
        samples = [Sample(row.key, _meta(row), array_of(spec, row)) for row in ok]
        with store.storage.scratch_file() as scratch:
            facts, places = write_feature_tar(scratch, spec.array, samples)
            name = store.column_tar_name(spec.column, split, shard, facts.digest8)
            store.storage.publish_file(scratch, name)
        tar = (name.rsplit("/", 1)[1], facts)
        placed = {row.key: replace(row, **asdict(place)) for row, place in zip(ok, places, strict=True)}
        rows = [placed.get(row.key, row) for row in rows]
    sums = Sums.of((array_of(spec, row)[: row.real_rows] for row in ok), spec.shape[-1])
    digest = labels_digests(store.read_plan(split)[0], store.config.shard_size)[shard]
    version = before.version if before else ABSENT
    commit_manifest(store, spec, split, shard, rows, tar, sums, digest, {"device": "cpu"}, version)


def media_of(key: str) -> bytes:
    """The bytes that stand for a clip's media: a function of its key, no two clips alike."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    return rng.bytes(int(rng.integers(2_000, 6_000)))


def array_of(spec: Spec, row: ManifestRow) -> np.ndarray:
    """A clip's feature: a function of its key, in a log-mel's range for sound; zeros where the track is missing."""
    missing = row.has_audio is False if spec.array == "logmel" else row.has_video is False
    if missing:
        return np.zeros(spec.shape, spec.dtype)
    rng = np.random.default_rng(zlib.crc32(row.key.encode()))
    values = rng.normal(-45, 12, spec.shape) if spec.array == "logmel" else rng.normal(0, 1, spec.shape)
    return values.clip(-100, 0).astype(spec.dtype) if spec.array == "logmel" else values.astype(spec.dtype)


def _planned(store: Store, split: str, shard: int) -> list[dict[str, Any]]:
    return [row for row in store.read_plan(split)[0].to_pylist() if row["shard"] == shard]


def _ledger_row(planned: dict[str, Any], fetch: set[int]) -> LedgerRow:
    row = LedgerRow(planned["position"], planned["key"], attempts=1, first_attempt=AT, last_attempt=AT, requests=1)
    outcome = UNFETCHED.get((planned["shard"], planned["position"]))
    if outcome and planned["position"] not in fetch:
        return replace(row, rounds=1, **outcome)
    data = media_of(row.key)
    return replace(
        row,
        status=FETCHED,
        origin="http",
        extension="mp4",
        media_sha256=hashlib.sha256(data).hexdigest(),
        media_bytes=len(data),
        media_start_ms=0,
        traffic=len(data) + 300,
    )


def _write_media(
    store: Store, split: str, shard: int, rows: Sequence[LedgerRow]
) -> tuple[str, dict[str, Any], dict[str, int]]:
    def members() -> Iterable[tuple[str, bytes]]:
        for row in rows:
            yield f"{row.key}.json", f'{{"key": "{row.key}", "media_sha256": "{row.media_sha256}"}}'.encode()
            yield f"{row.key}.mp4", media_of(row.key)

    with store.storage.scratch_file() as scratch:
        facts, offsets = write_media_tar(scratch, members())
        path = store.media_tar_name(split, shard, facts.digest8)
        store.storage.publish_file(scratch, path)
    return path.rsplit("/", 1)[1], {"size": facts.size, "sha256": facts.sha256}, offsets


def _manifest_row(spec: Spec, planned: dict[str, Any], ledger: LedgerRow, shard: int) -> ManifestRow:
    names = ("key", "ytid", "start_ms", "end_ms", "mids", "labels")
    media = {"media_sha256": ledger.media_sha256, "media_start_ms": ledger.media_start_ms}
    place = (shard, ledger.position)
    status, words = BROKEN.get(place, (OK, None))
    row = ManifestRow(status=status, words=words, **{name: planned[name] for name in names}, **media)
    if status != OK:
        return row
    row = replace(row, has_audio=place != NO_SOUND, has_video=place != NO_PICTURE)
    real = 0 if (row.has_audio if spec.array == "logmel" else row.has_video) is False else spec.shape[0]
    track = {"mute": False} if spec.array == "logmel" else {"still": place == (0, 0)}
    return replace(row, short=real == 0, decoded_ms=10_000 if real else 0, real_rows=real, **track)


def _meta(row: ManifestRow) -> dict[str, Any]:
    names = ("key", "ytid", "start_ms", "end_ms", "has_audio", "has_video", "mute", "still", "short", "decoded_ms")
    meta = {name: getattr(row, name) for name in (*names, "real_rows") if getattr(row, name) is not None}
    return {**meta, "mids": list(row.mids), "labels": list(row.labels)}


def column_tars(store: Path) -> dict[str, str]:
    """Every column tar's path below the store and the sha256 of its bytes."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.glob("features/*/*/*.tar"))
    }


# ---------------------------------------------------------------- larger stores of small arrays, for the reader

SMALL_LOGMEL = Spec("logmel", "logmel", (4, 3), "float16", {"logmel": {"n_mels": 3}})
SMALL_VIDEO = Spec("embedding", "video", (2, 5), "float16", {"weights": {"kind": "random", "seed": 0}})


def make_wide_store(
    uri: str,
    clips: int = 60,
    shard_size: int = 8,
    split: str = SPLIT,
    columns: Sequence[Spec] = (SMALL_LOGMEL, SMALL_VIDEO),
    lacking: Iterable[tuple[str, int]] = (),
    first: int = 0,
    **options: Any,
) -> Store:
    """A store of many clips whose arrays are small, with plan and manifests but no media.

    Args:
        lacking: (feature, clip): the clip is undecodable in that column.
        first: number of the first clip: another one gives other keys. Clip i has the classes i % 7 and, every third,
            (i + 2) % 7; every eleventh has no sound.
    """
    store = Store.open_or_create(uri, shard_size=shard_size, **options)
    rows = [wide_row(first + number, number, shard_size) for number in range(clips)]
    summary = {"format": FORMAT, "split": split, "segments": clips, "classes": [list(pair) for pair in CLASSES]}
    store.write_plan(split, pa.Table.from_pylist(rows, PLAN_SCHEMA), summary)
    for spec in columns:
        store.write_spec(spec)
        lacks = {number for feature, number in lacking if feature == spec.feature}
        for shard in range(-(-clips // shard_size)):
            commit_wide_shard(store, spec, split, shard, rows[shard * shard_size :][:shard_size], lacks)
    return store


def wide_row(clip: int, number: int, shard_size: int) -> dict[str, Any]:
    """A clip's planned segment."""
    labels = [clip % 7] + ([(clip + 2) % 7] if clip % 3 == 0 else [])
    place = {"shard": number // shard_size, "position": number % shard_size, "start_ms": 0, "end_ms": 10_000}
    names = {"key": f"wide{clip:07d}_0", "ytid": f"wide{clip:07d}", "mids": [CLASSES[i][0] for i in labels]}
    return {**place, **names, "labels": labels}


def wide_array(spec: Spec, key: str) -> np.ndarray:
    """A clip's array: a function of its key and the column; whole numbers, exact in float16."""
    rng = np.random.default_rng(zlib.crc32(f"{spec.feature} {key}".encode()))
    return rng.integers(-60, 0, spec.shape).astype(spec.dtype)


def commit_wide_shard(
    store: Store, spec: Spec, split: str, shard: int, planned: Sequence[dict[str, Any]], lacks: Iterable[int] = ()
) -> None:
    """Commits one column shard of a wide store; a second commit replaces the first."""
    rows, samples = [], []
    for row in planned:
        silent = int(row["ytid"][4:]) % 11 == 0
        names = {name: row[name] for name in ("key", "ytid", "start_ms", "end_ms", "mids", "labels")}
        if row["shard"] * store.config.shard_size + row["position"] in set(lacks):
            rows.append(ManifestRow(status=UNDECODABLE, **names))
            continue
        array = np.zeros(spec.shape, spec.dtype) if silent and spec.array == "logmel" else wide_array(spec, row["key"])
        real = 0 if silent and spec.array == "logmel" else spec.shape[0]
        rows.append(ManifestRow(status=OK, has_audio=not silent, has_video=True, real_rows=real, **names))
        samples.append(Sample(row["key"], {"key": row["key"], "labels": row["labels"]}, array))
    tar, placed = None, rows
    if samples:
        with store.storage.scratch_file() as scratch:
            facts, places = write_feature_tar(scratch, spec.array, samples)
            name = store.column_tar_name(spec.column, split, shard, facts.digest8)
            store.storage.publish_file(scratch, name)
        tar, left = (name.rsplit("/", 1)[1], facts), iter(places)
        placed = [replace(row, **asdict(next(left))) if row.status == OK else row for row in rows]
    real_rows = [row.real_rows for row in rows if row.status == OK]
    sums = Sums.of((s.array[:real] for s, real in zip(samples, real_rows, strict=True)), spec.shape[-1])
    before = read_manifest(store, spec.column, split, shard)
    version = before.version if before else ABSENT
    commit_manifest(store, spec, split, shard, placed, tar, sums, "labels", {}, version)
