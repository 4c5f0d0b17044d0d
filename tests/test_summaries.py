"""A footer that is not what a writer of ours makes is refused where it is read: every command says so in a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from store_factory import LOGMEL, SPLIT, VIDEO, make_plan, make_store, media_of

from stores.__main__ import main
from stores.forget import forget
from stores.layout import Store
from stores.storage import StorageError
from stores.summaries import check_summary
from stores.tables import METADATA_KEY, summary_of

KEY = make_plan()["key"][0].as_py()  # shard 0: fetched, and ok in both columns
TABLES = {
    "plan": f"plan/{SPLIT}.parquet",
    "media": f"media/{SPLIT}/00000.parquet",
    "features": f"features/{LOGMEL.column}/{SPLIT}/00000.parquet",
}
RUBBISH = (None, -1, "x", [], {}, 1e308, [None], True, 10**30, [["a"]], {"a": -1}, {"a.tar": {"size": "1"}})
COMMANDS = {
    "status": ("status", "{store}"),
    "show": ("show", "{store}", KEY),
    "failed": ("failed", "{store}"),
    "verify": ("verify", "{store}", "--media"),
    "urls": ("urls", "{store}", "--split", SPLIT, "--column", LOGMEL.column),
    "plan-rebuild": ("plan-rebuild", "{store}"),
    "gc": ("gc", "{store}", "--older-than", "0"),
    "export": ("export", "{store}", "--split", SPLIT, "--column", LOGMEL.column, "--media", "--to", "{folder}/out"),
    "inventory": ("inventory", "{store}", "--to", "{folder}/inventory.parquet"),
    "forget": ("forget", "{store}", KEY),
}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_store(tmp_path_factory.mktemp("store")).storage.root)


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def set_footer(path: Path, text: bytes) -> None:
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: text}), path)


def edit(path: Path, **changes: Any) -> None:
    """Writes a table's summary anew with other values; `...` removes one."""
    summary = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
    kept = {key: value for key, value in {**summary, **changes}.items() if value is not ...}
    set_footer(path, json.dumps(kept).encode())


def damages(kind: str, pristine: Path) -> Iterator[dict[str, Any]]:
    name = TABLES[kind]
    for key in summary_of((pristine / name).read_bytes(), name):
        yield from ({key: value} for value in (..., *RUBBISH))


@pytest.mark.parametrize("kind", TABLES)
def test_what_passes_is_what_commands_can_use(kind: str, pristine: Path, folder: Path) -> None:
    """Each value of the summary replaced by each kind of rubbish: it is refused, or it harms no survey of the store."""
    name, refused, passed = TABLES[kind], 0, []
    data = (folder / name).read_bytes()
    for change in damages(kind, pristine):
        edit(folder / name, **change)
        try:
            summary_of((folder / name).read_bytes(), name)
            passed.append(change)
            for command in ("status", "plan-rebuild", "show"):
                main([text.format(store=folder, folder=folder) for text in COMMANDS[command]])
        except StorageError as error:
            assert name in str(error)
            refused += 1
        (folder / name).write_bytes(data)
    assert refused > len(passed)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("plan", {"segments": None}),
        ("plan", {"classes": [None]}),
        ("plan", {"labels_sha256": 3}),
        ("plan", {"format": 2}),
        ("media", {"tars": -1}),
        ("media", {"next_attempt": ...}),
        ("media", {"failed": []}),
        ("features", {"labels_digest": ...}),
        ("features", {"noted": ...}),
        ("features", {"tar": {"name": "x.tar"}}),
    ],
)
def test_every_command_says_so_in_a_line(
    command: str, kind: str, change: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder / TABLES[kind], **change)
    code = main([text.format(store=folder, folder=tmp_path) for text in COMMANDS[command]])
    said = capsys.readouterr()
    if code == 0:  # it had no need of that table, or goes on without it
        assert command not in ("status", "verify", "plan-rebuild")
        return
    assert code == (1 if command == "verify" else code) and code in (1, 2)
    assert TABLES[kind].split("/", 1)[1] in said.out + said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    "text", [b"null", b"[]", b"{", b'"x"', b"[" * 100_000, b'{"format": 1, "split": ' + b"[" * 100_000, b"\xff"]
)
@pytest.mark.parametrize("kind", TABLES)
def test_a_footer_that_is_no_object(text: bytes, kind: str, folder: Path) -> None:
    set_footer(folder / TABLES[kind], text)
    with pytest.raises(StorageError, match=TABLES[kind]):
        summary_of((folder / TABLES[kind]).read_bytes(), TABLES[kind])


@pytest.mark.parametrize("kind", ["media", "features"])
@pytest.mark.parametrize("change", [{"tars": [], "tar": -1}, {"format": 2}, {"labels_digest": 1, "planned": -1}])
def test_a_clip_leaves_everything_else_where_one_table_cannot_be_read(
    kind: str, change: dict[str, Any], folder: Path
) -> None:
    store = Store.open(str(folder))
    edit(folder / TABLES[kind], **change)
    with pytest.raises(StorageError, match=TABLES[kind]):
        list(forget(store, [KEY]))
    holding = {path.parent.relative_to(folder) for path in folder.rglob("*.tar") if KEY.encode() in path.read_bytes()}
    assert holding == {Path(TABLES[kind]).parent}
    assert any(media_of(KEY) in path.read_bytes() for path in folder.rglob("*.tar")) == (kind == "media")
    assert VIDEO.column in store.columns()


def test_the_first_table_that_cannot_be_read_hides_no_other(folder: Path) -> None:
    for kind in ("media", "features"):
        edit(folder / TABLES[kind], format=7)
    with pytest.raises(StorageError) as caught:
        list(forget(Store.open(str(folder)), [KEY]))
    assert all(TABLES[kind] in str(caught.value) for kind in ("media", "features"))
    assert str(caught.value).count("format 7") == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plan/eval.parquet", "another one's: expected {'split': 'eval'}"),
        ("media/eval/00001.parquet", "another one's"),
        ("features/logmel-00000000/eval/00000.parquet", "another one's"),
    ],
)
def test_a_table_in_anothers_place(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_summary({"format": 1, "split": "train", "shard": 0}, name)


def test_tables_elsewhere_are_their_readers_affair() -> None:
    for name in ("scores/run.parquet", "x.parquet", "media/eval/backup/00000.parquet", "plan/old/eval.parquet"):
        assert check_summary({"any": "thing"}, name) == {"any": "thing"}


def test_each_field_of_a_new_summary_is_known(pristine: Path) -> None:
    """A field that a writer adds, and a reader uses, is one that has to be checked: `verify` compares the others."""
    compared = {"format", "csv_sha256", "array", "shape", "dtype", "samples", "stride"}
    unchecked: list[str] = []
    for kind, name in TABLES.items():
        summary = summary_of((pristine / name).read_bytes(), name)
        for key in summary.keys() - compared:
            with suppress(ValueError):
                check_summary({**summary, key: 1.5}, name)
                unchecked.append(f"{kind} {key}")
    assert unchecked == []
