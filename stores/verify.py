"""Re-reads a store: every table against the others, every tar against its manifest or ledger. Stops at no problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from stores.layout import Store, StoreError
from stores.ledger import Ledger, read_ledger
from stores.manifest import OK, read_manifest
from stores.plans import class_names, digests_of, labels_digests
from stores.specs import Spec
from stores.storage import StorageError
from stores.verify_tables import PlannedShard, check_ledger, check_manifest, check_plan, check_planned_shard
from stores.verify_tars import Problem, check_feature_tar, check_media_tar

SHARDS_AT_ONCE = 4  # each holds a few chunks of one tar in memory

# What damaged tables raise while they become rows.
_UNREADABLE = (StorageError, FileNotFoundError, KeyError, TypeError, ValueError, OverflowError)


@dataclass
class Checked:
    """What was looked at in one go, and what is wrong with it.

    `counts`: `shards`, `ledgers`, `manifests`, `feature tars`, `media tars`, and `bytes` of the tars read.
    """

    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def reading(self, file: str) -> Iterator[None]:
        """Whatever cannot be made sense of inside is a problem of this file."""
        try:
            yield
        except _UNREADABLE as error:
            self.problems.append(Problem(file, "to be readable", f"{type(error).__name__}: {error}"))


@dataclass(frozen=True)
class _PlannedSplit:
    """A readable plan. As Python objects a whole one takes gigabytes: each shard is made when it is its turn."""

    split: str
    plan: pa.Table
    shard_size: int
    digests: tuple[str, ...]
    classes: Mapping[str, int]

    def shard(self, number: int) -> PlannedShard:
        rows = self.plan.slice(number * self.shard_size, self.shard_size).to_pylist()
        return PlannedShard(self.split, number, rows, self.digests[number], self.classes)


def verify(store: Store, split: str | None = None, column: str | None = None, media: bool = False) -> Iterator[Checked]:
    """Checks a store, or one split or column of it.

    Args:
        split: only this one.
        column: only this one, by its full name.
        media: read media tars too; else they only have to be there in the right size.

    Yields:
        specs and plans as they are read, and each shard when it is done, in order.

    Raises:
        StoreError: no such split.
    """
    splits = store.splits()
    if split is not None and split not in splits:
        raise StoreError(f"no split {split!r} in {store.storage.uri}; it has: {', '.join(splits) or 'none'}")
    specs, checked = _check_specs(store, store.columns() if column is None else [column])
    checked.problems += _without_plan(store, splits, specs)
    yield checked
    for name in splits if split is None else [split]:
        planned, checked = _check_split(store, name, specs)
        yield checked
        if planned is not None:
            with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
                yield from pool.map(partial(_check_shard, store, planned, specs, media), range(len(planned.digests)))


def _check_specs(store: Store, columns: Sequence[str]) -> tuple[list[Spec], Checked]:
    checked, specs = Checked(), []
    for column in columns:
        name = f"features/{column}/spec.json"
        with checked.reading(name):
            specs.append(store.read_spec(column))
    return specs, checked


def _without_plan(store: Store, splits: Sequence[str], specs: Sequence[Spec]) -> Iterator[Problem]:
    """Folders of splits whose plan is gone: nothing else would notice what lies in them."""
    for parent in ("media", *(f"features/{spec.column}" for spec in specs)):
        for entry in store.storage.list(parent):
            name = entry.name.rsplit("/", 1)[1]
            if entry.size < 0 and name not in splits and store.sizes(entry.name):
                yield Problem(entry.name, f"a plan of {name}, {store.plan_name(name)}", "none")


def _check_split(store: Store, split: str, specs: Sequence[Spec]) -> tuple[_PlannedSplit | None, Checked]:
    checked, name = Checked(), store.plan_name(split)
    planned = None
    with checked.reading(name):
        plan, summary = store.read_plan(split)
        checked.problems += check_plan(name, plan, summary)
        size = store.config.shard_size
        classes = {mid: index for index, (mid, _) in enumerate(class_names(summary))}
        digests = labels_digests(plan, size)
        if digests_of(plan, summary, size) != digests:
            checked.problems.append(Problem(name, "the digests of its rows' labels in its footer", "others"))
        planned = _PlannedSplit(split, plan, size, digests, classes)
        checked.problems += _unplanned(store, split, len(planned.digests), specs)
    return planned, checked


def _unplanned(store: Store, split: str, shards: int, specs: Sequence[Spec]) -> Iterator[Problem]:
    """Ledgers and manifests of shards that the plan does not have."""
    folders = [store.media_folder(split), *(store.column_folder(spec.column, split) for spec in specs)]
    for folder in folders:
        expected = {f"{folder}/{shard:05d}.parquet" for shard in range(shards)}
        for name in store.sizes(folder):
            if name.endswith(".parquet") and name not in expected:
                yield Problem(name, f"tables of the {shards} planned shards only", "this one")


def _check_shard(store: Store, split: _PlannedSplit, specs: Sequence[Spec], media: bool, number: int) -> Checked:
    checked = Checked(counts=Counter(shards=1))
    plan = store.plan_name(split.split)
    planned = PlannedShard(split.split, number, (), "", {})
    with checked.reading(plan):
        planned = split.shard(number)
        checked.problems += check_planned_shard(plan, planned)
    ledger = _check_media(store, planned, media, checked)
    for spec in specs:
        _check_column(store, spec, planned, ledger, checked)
    return checked


def _check_media(store: Store, planned: PlannedShard, media: bool, checked: Checked) -> Ledger | None:
    """Checks a shard's ledger and its tars. Returns the ledger, if there is a readable one."""
    name, ledger = store.ledger_name(planned.split, planned.shard), None
    with checked.reading(name):
        ledger = read_ledger(store, planned.split, planned.shard)
        if ledger is not None:
            checked.counts["ledgers"] += 1
            checked.problems += check_ledger(name, ledger, planned)
    for tar, facts in ledger.tars.items() if ledger else ():
        path = f"{store.media_folder(planned.split)}/{tar}"
        with checked.reading(path):
            checked.counts["media tars"] += 1
            checked.counts["bytes"] += facts["size"] if media else 0
            rows = [row for row in ledger.rows if row.tar == tar] if ledger else []
            checked.problems += check_media_tar(store.storage, path, facts, rows, read=media)
    return ledger


def _check_column(store: Store, spec: Spec, planned: PlannedShard, ledger: Ledger | None, checked: Checked) -> None:
    """Checks a column shard's manifest and its tar, if there is one."""
    name, manifest = store.manifest_name(spec.column, planned.split, planned.shard), None
    with checked.reading(name):
        manifest = read_manifest(store, spec.column, planned.split, planned.shard)
        if manifest is not None:
            checked.counts["manifests"] += 1
            checked.problems += check_manifest(name, manifest, spec, planned, ledger)
    if manifest is None or not manifest.summary.get("tar"):
        return
    path = f"{store.column_folder(spec.column, planned.split)}/{manifest.summary['tar'].get('name')}"
    with checked.reading(path):
        checked.counts["feature tars"] += 1
        checked.counts["bytes"] += manifest.summary["tar"]["size"]
        ok = [row for row in manifest.rows if row.status == OK]
        checked.problems += check_feature_tar(store.storage, path, manifest.summary, ok, spec)
