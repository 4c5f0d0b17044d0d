"""Verify finds every kind of damage, names file and key, and goes on to the next."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from store_factory import CLASSES, LOGMEL, SHARD_SIZE, SPLIT, VIDEO, commit_media, make_plan, make_store

from stores.layout import Store, StoreError
from stores.manifest import read_manifest
from stores.plans import labels_digests
from stores.tables import LEDGER_SCHEMA, MANIFEST_SCHEMA, PLAN_SCHEMA, from_parquet, to_parquet
from stores.verify import verify
from stores.verify_tars import Problem

KEYS = [row["key"] for row in make_plan().to_pylist()]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    return folder


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Store:
    return Store.open(str(shutil.copytree(pristine, tmp_path / "store")))


def problems(store: Store, **options: Any) -> list[Problem]:
    return [problem for checked in verify(store, **options) for problem in checked.problems]


def live_tar(store: Store, shard: int = 0, column: str = LOGMEL.column) -> Path:
    manifest = read_manifest(store, column, SPLIT, shard)
    assert manifest is not None
    return Path(store.storage.root, store.column_folder(column, SPLIT), manifest.summary["tar"]["name"])


def media_tar(store: Store, shard: int = 0) -> Path:
    (tar,) = Path(store.storage.root, "media", SPLIT).glob(f"{shard:05d}.*.tar")
    return tar


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def edit(store: Store, name: str, schema: pa.Schema, change: Callable[[Rows, dict[str, Any]], object]) -> None:
    """Publishes a table again with rows and summary changed, as no writer of ours would."""
    table, summary = from_parquet(store.storage.read(name), name)
    rows = table.to_pylist()
    change(rows, summary)
    store.storage.publish(name, to_parquet(pa.Table.from_pylist(rows, schema), schema, summary))


def of(found: list[Problem], path: Path | str) -> list[Problem]:
    name = path if isinstance(path, str) else path.name
    return [problem for problem in found if problem.file.endswith(name)]


def test_a_sound_store_has_no_problem_and_everything_was_looked_at(store: Store) -> None:
    counts: Counter[str] = Counter()
    for checked in verify(store, media=True):
        assert checked.problems == []
        counts += checked.counts
    tars = list(Path(store.storage.root).rglob("*.tar"))
    assert counts == {
        "shards": 3,
        "ledgers": 3,
        "manifests": 6,
        "feature tars": 6,
        "media tars": 3,
        "bytes": sum(path.stat().st_size for path in tars),
    }


@pytest.mark.parametrize("shards", [(), (0,), (1, 2)])
def test_a_store_that_is_not_finished_has_no_problem(tmp_path: Path, shards: tuple[int, ...]) -> None:
    assert problems(make_store(tmp_path, shards=shards), media=True) == []


def test_garbage_and_stale_columns_are_no_problem(store: Store) -> None:
    commit_media(store, 1, fetch=[4])
    shutil.copy(live_tar(store), live_tar(store).with_name("00000.deadbeef.tar"))
    assert problems(store, media=True) == []


def test_a_corrected_label_is_no_problem_until_the_column_claims_to_have_it(store: Store) -> None:
    def correct(rows: Rows, summary: dict[str, Any]) -> None:
        rows[0]["mids"], rows[0]["labels"] = [CLASSES[5][0]], [5]
        summary["labels_sha256"] = labels_digests(pa.Table.from_pylist(rows, PLAN_SCHEMA), SHARD_SIZE)

    edit(store, store.plan_name(SPLIT), PLAN_SCHEMA, correct)
    assert problems(store) == []


@pytest.mark.parametrize("column", [LOGMEL.column, VIDEO.column])
def test_a_flipped_byte_in_an_array(store: Store, column: str) -> None:
    manifest = read_manifest(store, column, SPLIT, 1)
    assert manifest is not None
    row = manifest.rows[-1]
    path = live_tar(store, 1, column)
    flip(path, row.array_offset + 3000)
    found = problems(store)
    assert found == of(found, path)
    assert [(p.key, p.expected) for p in found if p.key] == [(row.key, f"xxh3 {row.sample_xxh3} of its sample")]
    assert [p.expected.split()[0] for p in found if not p.key] == ["sha256", "arrays"]


def test_a_flipped_byte_in_a_json(store: Store) -> None:
    path = live_tar(store)
    at = path.read_bytes().index(b'"labels":[0]')
    overwrite(path, at, b'"labels":[5]')
    found = problems(store)
    assert {(p.key, p.expected) for p in of(found, path) if p.key and "xxh3" not in p.expected} == {
        (KEYS[0], "labels [0] in its json")
    }
    assert any("xxh3" in p.expected and p.key == KEYS[0] for p in found)
    overwrite(path, at, b'"labels":[[5')
    assert any(p.key == KEYS[0] and p.expected == "a json" for p in problems(store))


def test_a_tar_that_was_cut_off(store: Store) -> None:
    path = live_tar(store)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = of(problems(store), path)
    assert found[0].expected == f"a tar of {len(whole)} bytes"
    assert found[0].found == f"{len(whole) // 2} bytes"
    assert {p.key for p in found if "xxh3" in p.expected} == {KEYS[1], KEYS[3]}
    assert any(f"{KEYS[3]}.json" in p.found and "without" in p.found for p in found)


def test_manifests_of_two_shards_swapped(store: Store) -> None:
    first, second = (store.manifest_name(LOGMEL.column, SPLIT, shard) for shard in (0, 1))
    one, two = store.storage.read(first), store.storage.read(second)
    store.storage.publish(first, two)
    store.storage.publish(second, one)
    found = problems(store)
    for name, shard, other in ((first, 0, 1), (second, 1, 0)):
        mine = of(found, name)
        assert [p.expected for p in mine] == ["to be readable"]
        assert f"'shard': {shard}" in mine[0].found and f"'shard': {other}" in mine[0].found


def test_a_tar_that_is_gone_or_has_another_name(store: Store) -> None:
    gone, moved = live_tar(store, 0), live_tar(store, 1)
    gone.unlink()
    moved.rename(moved.with_name("00001.00000000.tar"))
    media_tar(store, 2).unlink()
    found = problems(store)
    assert [p.file.rsplit("/", 1)[1] for p in found if p.found == "no such object"] == [
        gone.name,
        moved.name,
        next(p.file.rsplit("/", 1)[1] for p in found if p.file.startswith("media")),
    ]
    assert len(found) == 3


def test_media_are_read_on_demand(store: Store) -> None:
    path = media_tar(store)
    flip(path, 1536 + 100)  # in the first clip's media: header, json, header
    assert problems(store) == []
    found = problems(store, media=True)
    assert {(p.file.rsplit("/", 1)[1], p.key, p.expected.split()[0]) for p in found} == {
        (path.name, KEYS[0], "media"),
        (path.name, None, "sha256"),
    }
    path.write_bytes(path.read_bytes()[:-512])
    assert [p.found for p in problems(store)] == [f"{path.stat().st_size} bytes"]


def test_one_column_or_split_alone(store: Store) -> None:
    flip(live_tar(store), 3000)
    assert problems(store, column=VIDEO.column) == []
    assert problems(store, column=LOGMEL.column) == problems(store, split=SPLIT) != []
    with pytest.raises(StoreError, match="it has: eval"):
        problems(store, split="train")


def test_a_table_that_cannot_be_read_does_not_hide_the_rest(store: Store) -> None:
    names = [store.ledger_name(SPLIT, 0), store.manifest_name(LOGMEL.column, SPLIT, 1)]
    for name in names:
        overwrite(Path(store.storage.root, name), 40, bytes(8))
    flip(live_tar(store, 2), 3000)
    lost = live_tar(store, 0, VIDEO.column)
    lost.unlink()
    found = problems(store)
    assert {p.file for p in found if p.expected == "to be readable"} == set(names)
    assert {KEYS[10], None} == {p.key for p in of(found, live_tar(store, 2))}
    assert of(found, lost)


def test_a_plan_that_cannot_be_read(store: Store) -> None:
    plan, summary = store.read_plan(SPLIT)
    store.write_plan("other", plan, {**summary, "split": "other"})
    Path(store.storage.root, store.plan_name(SPLIT)).write_bytes(b"PAR1")
    assert [(p.file, p.expected) for p in problems(store)] == [("plan/eval.parquet", "to be readable")]


def test_digests_of_labels_that_are_not_those_of_the_rows(store: Store) -> None:
    plan, summary = store.read_plan(SPLIT)
    digests = [summary["labels_sha256"][0], "0" * 64, *summary["labels_sha256"][2:]]
    store.storage.publish(store.plan_name(SPLIT), to_parquet(plan, PLAN_SCHEMA, {**summary, "labels_sha256": digests}))
    (problem,) = problems(store)
    assert problem.file == store.plan_name(SPLIT)
    assert "digests of its rows' labels" in problem.expected


def test_specs_that_are_not_those_of_their_columns(store: Store) -> None:
    store.storage.publish(f"features/{LOGMEL.column}/spec.json", VIDEO.to_json().encode())
    store.storage.remove(f"features/{VIDEO.column}/spec.json")
    found = problems(store)
    assert [(p.file, p.found.split(":")[0]) for p in found] == [
        (f"features/{LOGMEL.column}/spec.json", "StoreError"),
        (f"features/{VIDEO.column}/spec.json", "StoreError"),
    ]


def test_tables_of_shards_that_are_not_planned(store: Store) -> None:
    for name in (store.ledger_name(SPLIT, 2), store.manifest_name(VIDEO.column, SPLIT, 2)):
        store.storage.publish(name.replace("00002", "00003"), store.storage.read(name))
    found = problems(store)
    assert [p.file.rsplit("/", 1)[1] for p in found] == ["00003.parquet"] * 2
    assert "3 planned shards" in found[0].expected


def test_a_summary_that_lost_a_name_is_a_problem_not_a_crash(store: Store) -> None:
    edit(store, store.ledger_name(SPLIT, 0), LEDGER_SCHEMA, lambda rows, summary: summary.clear())
    edit(store, store.manifest_name(LOGMEL.column, SPLIT, 1), MANIFEST_SCHEMA, lambda rows, summary: summary.clear())
    found = problems(store)
    ledger, manifest = store.ledger_name(SPLIT, 0), store.manifest_name(LOGMEL.column, SPLIT, 1)
    for name in (ledger, manifest):
        assert [p.expected for p in of(found, name)] == ["to be readable"]


def test_a_tar_name_cannot_lead_out_of_the_store(store: Store, tmp_path: Path) -> None:
    shutil.copy(live_tar(store), tmp_path / "outside.tar")

    def lead_out(rows: Rows, summary: dict[str, Any]) -> None:
        summary["tar"]["name"] = "../../../../outside.tar"

    edit(store, store.manifest_name(LOGMEL.column, SPLIT, 0), MANIFEST_SCHEMA, lead_out)
    found = problems(store)
    assert [p.file for p in found] == [store.manifest_name(LOGMEL.column, SPLIT, 0)]
    assert "expected tar in its summary" in found[0].found and "outside" in found[0].found


def test_nothing_is_written(store: Store) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = [path for path in Path(store.storage.root).rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    flip(live_tar(store), 3000)
    before = state()
    problems(store, media=True)
    assert state() == before


def test_rows_survive_a_round_trip_of_the_editor(store: Store) -> None:
    """The edits of these tests change only what they say: an edit that changes nothing is no problem."""
    edit(store, store.manifest_name(LOGMEL.column, SPLIT, 0), MANIFEST_SCHEMA, lambda rows, summary: None)
    edit(store, store.ledger_name(SPLIT, 0), LEDGER_SCHEMA, lambda rows, summary: None)
    edit(store, store.plan_name(SPLIT), PLAN_SCHEMA, lambda rows, summary: None)
    assert problems(store, media=True) == []
    manifest = read_manifest(store, LOGMEL.column, SPLIT, 0)
    assert manifest is not None
    assert {*asdict(manifest.rows[0])} == {*MANIFEST_SCHEMA.names}


def test_what_lies_in_a_split_whose_plan_is_gone_is_found(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / store.plan_name(SPLIT)).unlink()
    problems = [problem for checked in verify(store) for problem in checked.problems]
    assert {problem.file for problem in problems} >= {f"media/{SPLIT}", f"features/{LOGMEL.column}/{SPLIT}"}
