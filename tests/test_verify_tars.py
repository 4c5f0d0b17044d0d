"""Tars against their rows: content that any checksum would pass, because the manifest was written for it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from stores.ledger import LedgerRow
from stores.manifest import ManifestRow, Sums
from stores.shards import Sample, TarFacts, npy_bytes, write_feature_tar, write_media_tar
from stores.specs import Spec
from stores.storage import Storage
from stores.verify_tars import Problem, check_feature_tar, check_media_tar

SPEC = Spec("logmel", "logmel", (40, 8), "float16", {})
KEYS = ["-aaaaaaaaaa_0", "bbbbbbbbbbb_30000", "BBBBBBBBBBB_30000"]
ARRAYS = np.random.default_rng(0).normal(size=(3, 40, 8)).astype(np.float16)


class Shard:
    """A feature tar and the rows and summary that a manifest would have for it, open to changes."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.path = Storage(str(folder)), folder / "a.tar"
        rows = [
            ManifestRow(key, "ok", key[:11], 0, 10_000, ["/m/1"], [index], has_audio=True, real_rows=40 - index)
            for index, key in enumerate(KEYS)
        ]
        facts, places = write_feature_tar(
            self.path, "logmel", [Sample(r.key, meta(r), a) for r, a in zip(rows, ARRAYS, strict=True)]
        )
        self.rows = [replace(row, **asdict(place)) for row, place in zip(rows, places, strict=True)]
        sums = Sums.of((a[: r.real_rows] for r, a in zip(rows, ARRAYS, strict=True)), 8)
        self.summary: dict[str, Any] = {"tar": tar_facts(facts), "sums": asdict(sums)}

    def problems(self) -> list[Problem]:
        return list(check_feature_tar(self.storage, "a.tar", self.summary, self.rows, SPEC))

    def overwrite(self, offset: int, data: bytes) -> None:
        """Changes the tar and every checksum with it."""
        content = bytearray(self.path.read_bytes())
        content[offset : offset + len(data)] = data
        self.replace_tar(bytes(content))

    def replace_tar(self, content: bytes) -> None:
        self.path.write_bytes(content)
        self.summary["tar"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for index, row in enumerate(self.rows):
            sample = content[row.sample_offset :][: row.sample_bytes]
            self.rows[index] = replace(row, sample_xxh3=xxhash.xxh3_64_hexdigest(sample))


def meta(row: ManifestRow) -> dict[str, Any]:
    names = ("key", "ytid", "start_ms", "end_ms", "mids", "labels", "has_audio", "real_rows")
    return {name: getattr(row, name) for name in names}


def tar_facts(facts: TarFacts) -> dict[str, Any]:
    return {"size": facts.size, "sha256": facts.sha256}


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path)


def test_a_tar_that_fits_its_rows(shard: Shard) -> None:
    assert shard.problems() == []


def header_of(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (header_of((8, 40), "<f2"), "float16 [8, 40]"),
        (header_of((40, 8), "<i2"), "int16 [40, 8]"),
        (header_of((1 << 40, 1 << 10), "<f2"), "float16 [1099511627776, 1024]"),  # would ask for two petabytes
        (b"\x93NUMPX", "no plain .npy file"),
        (header_of((40, 8), "<f2").replace(b"(40, 8)", b"(40, 8("), "no plain .npy file"),
        (header_of((40, 8), "<f2").replace(b"'<f2'", b"[1,2]"), "no plain .npy file"),
        (b"\x93NUMPY\x02\x00", "no plain .npy file (version (2, 0))"),
    ],
)
def test_an_array_of_another_form(shard: Shard, header: bytes, found: str) -> None:
    shard.overwrite(shard.rows[1].array_offset or 0, header)
    (problem,) = shard.problems()
    assert problem.key == KEYS[1]
    assert problem.expected == "an array of float16 [40, 8]"
    assert problem.found.startswith(found)


def test_pickles_are_not_opened(shard: Shard, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "pwned",)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
    assert len(buffer.getvalue()) < (shard.rows[0].array_bytes or 0)
    shard.overwrite(shard.rows[0].array_offset or 0, buffer.getvalue())
    shard.overwrite(shard.rows[1].array_offset or 0, pickle.dumps(Evil()))
    assert [p.key for p in shard.problems()] == KEYS[:2]
    assert not (tmp_path / "pwned").exists()


def test_values_that_are_not_finite_and_values_that_are_others(shard: Shard) -> None:
    first = (shard.rows[0].array_offset or 0) + 128
    shard.overwrite(first, np.array([np.nan, np.inf], np.float16).tobytes())
    assert [(p.key, p.expected, p.found) for p in shard.problems()] == [(KEYS[0], "finite values", "2 others")]
    shard.overwrite(first, np.array([1.0, 100.0], np.float16).tobytes())
    assert ["sums over 117 rows" in p.expected for p in shard.problems()] == [True]


def test_padding_rows_are_not_part_of_the_sums(shard: Shard) -> None:
    last = (shard.rows[2].array_offset or 0) + 128 + 39 * 8 * 2  # row 39 of an array with 38 real ones
    shard.overwrite(last, np.array([5.0], np.float16).tobytes())
    assert shard.problems() == []


@pytest.mark.parametrize("name", ["key", "mids", "labels", "start_ms", "has_audio", "real_rows"])
def test_a_json_that_says_something_else_than_the_row(shard: Shard, name: str) -> None:
    values = {"key": "another_0", "mids": ["/m/2"], "labels": [1], "start_ms": 5, "has_audio": False, "real_rows": 9}
    shard.rows[0] = replace(shard.rows[0], **{name: values[name]} if name != "key" else {"ytid": "x"})
    (problem,) = [p for p in shard.problems() if "json" in p.expected]
    assert (problem.key, problem.expected.split()[0]) == (KEYS[0], "ytid" if name == "key" else name)


@pytest.mark.parametrize("text", [b"{", b"[1]", b"nul\xff", b"[" * 400])
def test_a_json_that_is_none(shard: Shard, text: bytes) -> None:
    row = shard.rows[2]
    shard.overwrite(row.json_offset or 0, text.ljust(row.json_bytes or 0))
    found = shard.problems()
    assert {p.key for p in found} == {KEYS[2]}
    assert found[0].expected in ("a json", f"key {KEYS[2]!r} in its json")


def members(shard: Shard) -> Iterator[tuple[str, bytes]]:
    for row, array in zip(shard.rows, ARRAYS, strict=True):
        yield f"{row.key}.json", json.dumps(meta(row)).encode().ljust(row.json_bytes or 0)
        yield f"{row.key}.logmel.npy", npy_bytes(array)


def rebuilt(changed: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    """The tar that Python's own tarfile makes of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in changed:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_the_tar_that_tarfile_itself_makes_has_no_problem(shard: Shard) -> None:
    shard.replace_tar(rebuilt(list(members(shard))))
    assert shard.problems() == []


def test_members_swapped_missing_doubled_and_strange(shard: Shard) -> None:
    first, *others = list(members(shard))
    cases = {
        "in the order": [others[0], first, *others[1:]],
        "6 members": [first, *others[:-1]],
        "no other members": [first, *others, others[-1]],
        "no other": [first, *others, ("../evil.json", b"{}")],
    }
    for words, changed in cases.items():
        shard.replace_tar(rebuilt(changed))
        found = shard.problems()
        assert any(words in p.expected for p in found), words
    assert any("../evil.json" in p.found for p in found)


def test_links_are_not_followed(shard: Shard, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(f"{KEYS[0]}.json")
        info.type, info.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        archive.addfile(info)
    shard.replace_tar(buffer.getvalue().ljust(shard.path.stat().st_size, b"\0"))
    found = shard.problems()
    assert any(p.expected == "plain files only" for p in found)
    assert not any("secret" in p.found for p in found)


def test_a_damaged_header_ends_the_archive(shard: Shard) -> None:
    shard.overwrite((shard.rows[1].sample_offset or 0) + 10, b"\xff\xff")
    found = shard.problems()
    assert any(f"{KEYS[1]}.json" in p.found and "without" in p.found for p in found)


def test_rows_that_point_elsewhere(shard: Shard) -> None:
    row = shard.rows[1]
    shard.rows[1] = replace(row, array_offset=(row.array_offset or 0) + 512)
    (problem,) = shard.problems()
    assert (problem.key, problem.expected) == (
        KEYS[1],
        f"logmel.npy at {row.array_offset + 512}, {row.array_bytes} bytes",
    )
    shard.rows[1] = replace(row, sample_offset=0)
    assert any(p.key == KEYS[1] for p in shard.problems())


def test_words_of_strangers_cannot_touch_the_terminal() -> None:
    assert str(Problem("a.tar", "b", "c\x1b[2J\nd", "k_0")) == "a.tar: k_0: expected b; found c\\x1b[2J d"


class MediaShard:
    """A media tar and the ledger rows for it."""

    def __init__(self, folder: Path) -> None:
        self.storage, self.path = Storage(str(folder)), folder / "m.tar"
        media = [bytes([index]) * (700 + index) for index in range(3)]
        digests = [hashlib.sha256(data).hexdigest() for data in media]
        facts, offsets = write_media_tar(
            self.path,
            (
                member
                for key, data, digest in zip(KEYS, media, digests, strict=True)
                for member in (
                    (f"{key}.json", json.dumps({"key": key, "media_sha256": digest}).encode()),
                    (f"{key}.mp4", data),
                )
            ),
        )
        self.facts = tar_facts(facts)
        self.rows = [
            LedgerRow(
                index,
                key,
                "fetched",
                extension="mp4",
                media_sha256=digests[index],
                media_bytes=len(media[index]),
                offset=offsets[f"{key}.mp4"],
            )
            for index, key in enumerate(KEYS)
        ]

    def problems(self, read: bool = True) -> list[Problem]:
        return list(check_media_tar(self.storage, "m.tar", self.facts, self.rows, read))


def test_media_that_fit_their_ledger(tmp_path: Path) -> None:
    shard = MediaShard(tmp_path)
    assert shard.problems() == shard.problems(read=False) == []


def test_media_of_another_checksum_size_or_place(tmp_path: Path) -> None:
    shard = MediaShard(tmp_path)
    row = shard.rows[1]
    for change in ({"media_sha256": "0" * 64}, {"media_bytes": 5}, {"offset": 512}):
        shard.rows[1] = replace(row, **change)
        found = shard.problems()
        assert {p.key for p in found} == {KEYS[1]}
    shard.rows[1] = replace(row, extension="mkv")
    assert {p.expected for p in shard.problems()} == {"6 members", "no other members than those of its rows"}


def test_media_that_are_not_there(tmp_path: Path) -> None:
    shard = MediaShard(tmp_path)
    shard.path.unlink()
    assert [p.found for p in shard.problems()] == [p.found for p in shard.problems(read=False)] == ["no such object"]
