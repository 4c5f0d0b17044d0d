"""The class list: AudioSet's own, the user's, and what is refused."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from pipeline.classes import ClassList, ClassListError, is_label_id, read_class_list


def test_shipped_list_is_audiosets(shared_data: Path) -> None:
    with (shared_data / "class_labels_indices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = read_class_list()
    assert len(classes) == len(rows) == 527
    assert classes.mids == tuple(row["mid"] for row in rows)
    assert classes.names == tuple(row["display_name"] for row in rows)
    assert classes == read_class_list(shared_data / "class_labels_indices.csv")


def test_lookup_of_a_few_known_classes() -> None:
    classes = read_class_list()
    assert classes.indices["/m/09x0r"] == 0
    assert classes.names[classes.indices["/m/04rlf"]] == "Music"
    assert classes.names[1] == "Male speech, man speaking"


def test_a_class_by_its_mid_or_its_name() -> None:
    classes = read_class_list()
    for text in ("/m/04rlf", "Music", "music"):
        assert classes.resolve(text) == "/m/04rlf"
    with pytest.raises(ClassListError, match="'Musik': music"):
        classes.resolve("Musik")
    with pytest.raises(ClassListError, match="got '/m/none'"):
        classes.resolve("/m/none")
    with pytest.raises(ClassListError, match="twice"):
        ClassList(("/m/a", "/m/b"), ("twice", "Twice")).resolve("twice")


def test_digest_is_of_the_mids_in_order_and_not_of_the_names() -> None:
    classes = ClassList(("/m/a", "/m/b"), ("A", "B"))
    assert classes.sha256 == hashlib.sha256(b"/m/a\n/m/b\n").hexdigest()
    assert classes.sha256 == ClassList(("/m/a", "/m/b"), ("other", "names")).sha256
    assert classes.sha256 != ClassList(("/m/b", "/m/a"), ("B", "A")).sha256


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_users_own_list(tmp_path: Path, bom: bytes, line_end: bytes) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes(
        bom + line_end.join([b"index,mid,display_name", b'0,dog,"Dog, barking"', b"1,/m/\x21x,Chat", b"", b""])
    )
    assert read_class_list(path) == ClassList(("dog", "/m/!x"), ("Dog, barking", "Chat"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: found no header"),
        (b"0,/m/a,A\n", "line 1: found no header"),
        (b"index,mid,display_name\n", "line 2: found the end of the file"),
        (b"index,mid,display_name\n0,/m/a\n", "line 2: found 2 fields"),
        (b"index,mid,display_name\n1,/m/a,A\n", "line 2: found index '1'"),
        (b"index,mid,display_name\n0,/m/a,A\n\n0,/m/b,B\n", "line 4: found index '0'"),
        (
            b"index,mid,display_name\n0,/m/a,A\n1,/m/a,B\n",
            "line 3: found the mid '/m/a' again; expected it once (first on line 2)",
        ),
        (b"index,mid,display_name\n0,,A\n", "line 2: found the mid ''"),
        (b'index,mid,display_name\n0,"/m/a,/m/b",A\n', "line 2: found the mid '/m/a,/m/b'"),
        (b"index,mid,display_name\n0,/m/\xc3\xa9,A\n", "line 2: found the mid '/m/é'"),
        (b"index,mid,display_name\n0,/m/a,\xff\n", "not UTF-8 text at byte 30"),
        (b"x" * ((16 << 20) + 1), "is no class list"),
    ],
)
def test_refused_lists_name_the_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes(content)
    with pytest.raises(ClassListError) as caught:
        read_class_list(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_missing_list_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(ClassListError, match=r"none\.csv.*check --labels"):
        read_class_list(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("text", "right"),
    [("/m/09x0r", True), ("/t/dd00088", True), ("dog", True), ("x" * 64, True), ("x" * 65, False), ("", False)]
    + [(bad, False) for bad in ("a b", 'a"', "a,b", "a\n", "\x7f", "é", "\0")],
)
def test_label_ids(text: str, right: bool) -> None:
    assert is_label_id(text) is right
